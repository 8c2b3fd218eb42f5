// What models make of the same rows: figures, differences with their intervals, and the rows that tell most.

import { details, el, facts, svg, table } from "./dom.js";
import { count, figure, number, optional, share, signed, tail } from "./format.js";
import { text } from "./hard.js";

export function scores(report) {
  const models = report.models ?? [];
  const differences = report.differences ?? [];
  return [figures(models), differences.map(difference), rows(report.rows ?? [])];
}

function figures(models) {
  const ofPairs = models.some((model) => model.evaluation?.preference);
  const titles = [
    "Loss",
    "Perplexity",
    "Token accuracy",
    ...(ofPairs ? ["Told apart", "Margin"] : []),
    "Rows",
    "Tokens",
  ];
  const columns = [{ title: "Model" }, ...titles.map((title) => ({ title, number: true }))];
  return table(
    "Each model on the same rows",
    columns,
    models.map((model) => {
      const { loss, lossStandardError, perplexity, tokenAccuracy, preference, examples, tokens } =
        model.evaluation ?? {};
      return [
        [model.name ?? "model", model.uri && el("small", {}, tail(model.uri, 3))],
        `${figure(optional(loss))} ± ${figure(number(lossStandardError))}`,
        figure(optional(perplexity)),
        share(tokenAccuracy),
        ...(ofPairs ? [share(preference?.accuracy), figure(number(preference?.margin))] : []),
        count(examples),
        count(tokens),
      ];
    }),
  );
}

const FIGURES = [
  ["loss", "Loss", "lower is better"],
  ["tokenAccuracy", "Token accuracy", "higher is better"],
  ["preferenceAccuracy", "Told apart", "higher is better"],
  ["margin", "Margin", "higher is better"],
];

function difference(found) {
  const columns = [
    { title: "Figure" },
    { title: "Difference", number: true },
    { title: "95% interval", number: true },
    { title: "Against no difference" },
  ];
  const shown = FIGURES.filter(([field]) => found[field]);
  const [wins, ties, losses] = [found.wins, found.ties, found.losses].map(number);
  const ofBuckets = [
    { title: "Up to tokens", number: true },
    { title: "Rows", number: true },
    { title: "Difference", number: true },
    { title: "95% interval", number: true },
  ];
  const buckets = (found.buckets ?? []).map((bucket) => [
    count(bucket.upToTokens),
    count(bucket.examples),
    signed(number(bucket.difference?.difference)),
    range(bucket.difference),
  ]);
  return el(
    "section",
    {},
    el("h3", {}, `${found.name} against ${found.baseline}`),
    facts([["Better, equal, worse", `${count(wins)}, ${count(ties)}, ${count(losses)} rows`]]),
    table(
      `${found.name} less ${found.baseline}`,
      columns,
      shown.map(([field, name, better]) => [
        [name, el("small", {}, better)],
        signed(number(found[field].difference)),
        range(found[field]),
        [drawn(found[field]), el("small", {}, verdict(found[field]))],
      ]),
    ),
    buckets.length > 0 &&
      details(`buckets-${found.name}`, "By length", table("The difference by length", ofBuckets, buckets)),
  );
}

function ends(interval) {
  return [number(interval?.low), number(interval?.high)];
}

function range(interval) {
  return ends(interval).map(signed).join(" to ");
}

// What these rows show, in words: the drawing is for eyes only.
function verdict(interval) {
  const [low, high] = ends(interval);
  return low > 0 || high < 0 ? "differs" : "could be chance";
}

function drawn(interval) {
  const [low, high] = ends(interval);
  const most = Math.max(Math.abs(low), Math.abs(high), Number.MIN_VALUE) * 1.1;
  const x = (value) => 60 + (value / most) * 58;
  return svg(
    "svg",
    { class: "interval", viewBox: "0 0 120 16", "aria-hidden": "true" },
    svg("line", { x1: 60, x2: 60, y1: 0, y2: 16, class: "zero" }),
    svg("line", { x1: x(low), x2: x(high), y1: 8, y2: 8, class: "range" }),
    svg("circle", { cx: x(number(interval.difference)), cy: 8, r: 4 }),
  );
}

function rows(shown) {
  if (shown.length === 0) return null;
  return el(
    "section",
    {},
    el("h3", {}, "Rows that tell most"),
    el(
      "ol",
      { className: "hard" },
      shown.map((row) =>
        el(
          "li",
          {},
          el("h4", {}, `${tail(row.object)}, row ${count(row.row)}`),
          text("Given", row.prompt),
          text(
            row.rejected ? "Chosen" : "Expected",
            row.expected && el("mark", { className: "trained" }, row.expected),
          ),
          text("Rejected", row.rejected),
          (row.scores ?? []).map((score) =>
            el(
              "div",
              {},
              facts([
                [
                  score.name ?? "model",
                  [
                    optional(score.loss) !== null && `loss ${figure(optional(score.loss))}`,
                    optional(score.margin) !== null && `margin ${figure(optional(score.margin))}`,
                  ]
                    .filter(Boolean)
                    .join(", "),
                ],
              ]),
              text(`${score.name ?? "model"} writes`, score.answer),
            ),
          ),
        ),
      ),
    ),
  );
}
