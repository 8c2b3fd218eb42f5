// What a model wrote, in generate jobs.

import { el, facts } from "./dom.js";
import { count, number, seconds, tail } from "./format.js";
import { text } from "./hard.js";

export function answers(report) {
  const took = number(report.seconds);
  const shown = report.shown ?? [];
  return [
    facts([
      ["Answers", count(report.answers)],
      ["As long as they may be", count(report.reachedLength)],
      ["Rows without an answer", number(report.failedRows) > 0 && count(report.failedRows)],
      ["Tokens asked", count(report.promptTokens)],
      ["Tokens answered", count(report.answerTokens)],
      ["Time", took > 0 && seconds(took)],
    ]),
    shown.length > 0 &&
      el("p", {}, `The first ${shown.length}; all of them are in answers.jsonl, the job’s checkpoint.`),
    shown.length > 0 &&
      el(
        "ol",
        { className: "hard" },
        shown.map((one) =>
          el(
            "li",
            {},
            el("h3", {}, `${tail(one.object)}, row ${count(one.row)}`),
            text("Asked", one.prompt),
            text("Expected", one.expected),
            text("The model wrote", one.answer),
          ),
        ),
      ),
  ];
}
