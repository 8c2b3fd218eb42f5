// What became of the rows.

import { details, el, facts, table } from "./dom.js";
import { count, number, tail, word } from "./format.js";

/// The reports of both splits.
export function dataReports(reports) {
  return [...reports.values()].map(report);
}

function report(report) {
  const name = report.split === "eval" ? "Held-out rows" : "Training rows";
  return el(
    "section",
    { className: "report" },
    el("h3", {}, name),
    facts([
      ["Rows read", count(report.rowsRead)],
      ["Examples", count(report.examples)],
      ["Tokens", count(report.tokens)],
      ["Trained tokens", report.split !== "eval" && count(report.trainedTokens)],
      ["Longest", report.longestTokens && `${count(report.longestTokens)} tokens`],
    ]),
    reasons(report.reasons ?? [], report.split, name),
    sources(report.sources ?? []),
    lengths(report.lengthHistogram ?? [], report.split, name),
  );
}

function reasons(found, split, name) {
  if (found.length === 0) return el("p", {}, "Every row takes part as it is.");
  const columns = [{ title: "What was found" }, { title: "Rows", number: true }, { title: "The first of them" }];
  const rows = found.map((one) => [
    word(one.reason),
    count(one.count),
    (one.rows ?? []).length > 0 &&
      details(
        `${split}-${one.reason}`,
        `${one.rows.length} shown`,
        el(
          "ul",
          {},
          one.rows.map((row) =>
            el("li", {}, `${tail(row.object)}, row ${count(row.row)}`, row.note && `: ${row.note}`),
          ),
        ),
      ),
  ]);
  return table(`${name}: left out, changed or worth a look`, columns, rows);
}

function sources(found) {
  if (found.length === 0) return null;
  const columns = [
    { title: "Source" },
    { title: "Weight", number: true },
    { title: "Examples", number: true },
    { title: "Of these in an epoch", number: true },
  ];
  return table(
    "Sources that are mixed",
    columns,
    found.map((one) => [tail(one.uri), String(number(one.weight)), count(one.examples), count(one.examplesPerEpoch)]),
  );
}

function lengths(buckets, split, name) {
  if (buckets.length === 0) return null;
  const most = Math.max(...buckets.map((bucket) => number(bucket.rows)), 1);
  const bar = (rows) => {
    const bar = el("span", { className: "bar", "aria-hidden": "true" });
    bar.style.width = `${(number(rows) / most) * 100}%`;
    return bar;
  };
  const columns = [{ title: "Up to tokens", number: true }, { title: "Rows", number: true }, { title: "" }];
  const rows = buckets.map((bucket) => [count(bucket.upToTokens), count(bucket.rows), bar(bucket.rows)]);
  return details(`${split}-lengths`, "Lengths", table(`${name} by length`, columns, rows));
}
