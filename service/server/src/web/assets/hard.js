// The held-out rows that the model finds hardest. What is trained on is marked, and in it what surprises the model.

import { details, el, facts, table } from "./dom.js";
import { count, figure, number, optional, tail } from "./format.js";

export function hardExamples(hard) {
  const examples = hard.examples ?? [];
  if (examples.length === 0) return null;
  return [
    el(
      "p",
      {},
      `The held-out rows that the model finds hardest after step ${number(hard.step)}, the hardest first. `,
      el("mark", { className: "trained" }, "Marked"),
      " is what is scored, as in training; ",
      el("mark", { className: "surprise" }, "underlined"),
      " in it are the tokens that surprise the model most.",
    ),
    el("ol", { className: "hard" }, examples.map(example)),
  ];
}

function example(found) {
  const [loss, margin, before] = [optional(found.loss), optional(found.margin), optional(found.before)];
  const was = before === null ? "" : ` (before: ${figure(before)})`;
  const surprises = found.surprises ?? [];
  const row = `${tail(found.object)}, row ${count(found.row)}`;
  return el(
    "li",
    {},
    el("h3", {}, row),
    facts([
      ["Loss", loss !== null && `${figure(loss)} nats per token${margin === null ? was : ""}`],
      ["Margin", margin !== null && figure(margin) + was],
    ]),
    text("Given", found.prompt),
    text(found.rejected ? "Chosen" : "Expected", found.expected && marked(found.expected, surprises)),
    text("Rejected", found.rejected),
    text("The model writes", found.answer),
    surprises.length > 0 && details(`hard-${row}`, "Surprising tokens", surpriseTable(surprises)),
  );
}

/// A text under a name, or nothing.
export function text(name, content) {
  if (!content || content.length === 0) return null;
  return el("div", { className: "text" }, el("h4", {}, name), el("blockquote", {}, content));
}

/// The scored text with the surprising tokens marked. A token is found by its text: one that stands there more than once is
/// not marked, since which of them it is cannot be told.
function marked(expected, surprises) {
  const places = [];
  for (const { expected: token } of surprises) {
    const word = (token ?? "").trim();
    const at = expected.indexOf(word);
    if (word && at >= 0 && expected.indexOf(word, at + 1) < 0) places.push([at, at + word.length]);
  }
  places.sort((a, b) => a[0] - b[0]);
  const pieces = [];
  let from = 0;
  for (const [start, end] of places) {
    if (start < from) continue;
    pieces.push(expected.slice(from, start), el("mark", { className: "surprise" }, expected.slice(start, end)));
    from = end;
  }
  return el("mark", { className: "trained" }, pieces, expected.slice(from));
}

function surpriseTable(surprises) {
  const columns = [
    { title: "Token", number: true },
    { title: "Expected" },
    { title: "The model's favourite" },
    { title: "Nats", number: true },
  ];
  return table(
    "The least likely tokens",
    columns,
    surprises.map((one) => [
      String(number(one.token)),
      quoted(one.expected),
      quoted(one.preferred),
      figure(number(one.nll)),
    ]),
  );
}

// Spaces and line ends are part of a token.
function quoted(token) {
  return el("code", {}, JSON.stringify(token ?? ""));
}
