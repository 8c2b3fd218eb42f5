// Several runs side by side: their curves on the same axes, their outcomes, and the settings in which they differ.

import { get, jobPath } from "./api.js";
import { Chart } from "./chart.js";
import { el, section, table } from "./dom.js";
import { follow } from "./events.js";
import { count, figure, jobName, number, optional, seconds, share } from "./format.js";
import { badge, took } from "./standing.js";
import { fresh, take } from "./state.js";

/// Most runs at once: each takes a connection while it goes on, and browsers give a site six over HTTP/1.1.
export const MAX_RUNS = 4;
const DRAW_EVERY = 500;

const KINDS = [
  ["Held-out loss", ({ evaluations }) => evaluations.map((one) => [one.step, one.loss])],
  ["Training loss", ({ steps }) => steps.map((one) => [one.step, one.loss])],
  [
    "Held-out margin of rewards",
    ({ evaluations }) => evaluations.map((one) => [one.step, one.preference?.margin ?? null]),
  ],
  [
    "Held-out accuracy of preference",
    ({ evaluations }) => evaluations.map((one) => [one.step, one.preference?.accuracy ?? null]),
    share,
  ],
  ["Held-out token accuracy", ({ evaluations }) => evaluations.map((one) => [one.step, one.accuracy]), share],
];

/// Shows runs in `page` and follows them until `signal` aborts.
export async function curves(page, ids, signal, connection) {
  document.title = "Side by side – hone";
  const runs = await Promise.all(
    ids.slice(0, MAX_RUNS).map(async (id) => ({ id, job: (await get(jobPath(id), { signal })).job, state: fresh() })),
  );
  const lines = runs.map(({ job }, index) => ({
    name: jobName(job),
    color: `run-${index + 1}`,
    dashed: index % 2 === 1,
  }));
  const charts = KINDS.map(([title, of, format = figure]) => ({ chart: new Chart(title, lines, { format }), of }));
  const outcomes = el("div");
  const drawn = section("Curves");
  const differing = section("Settings that differ");
  page.replaceChildren(el("h1", { tabindex: -1 }, "Runs side by side"), outcomes, drawn.element, differing.element);
  drawn.show(
    el(
      "div",
      { className: "charts" },
      charts.map(({ chart }) => chart.element),
    ),
  );
  const differences = settings(runs.map(({ job }) => job.spec));
  differing.show(differences.length > 0 ? settingsTable(runs, differences) : el("p", {}, "There are none."));

  let timer = null;
  const draw = () => {
    timer = null;
    if (signal.aborted) return;
    outcomes.replaceChildren(outcomeTable(runs));
    for (const { chart, of } of charts) chart.show(joined(runs.map(({ state }) => of(state))));
  };
  draw();
  const resize = new ResizeObserver(() => charts.forEach(({ chart }) => chart.refresh()));
  resize.observe(page);
  signal.addEventListener("abort", () => resize.disconnect());
  matchMedia("(prefers-color-scheme: dark)").addEventListener(
    "change",
    () => charts.forEach(({ chart }) => chart.refresh()),
    { signal },
  );

  const standing = new Map();
  await Promise.all(
    runs.map((run) =>
      follow(
        run.id,
        {
          event(event) {
            if (take(run.state, event).includes("job"))
              get(jobPath(run.id), { signal }).then(
                (found) => {
                  run.job = found.job;
                  timer ??= setTimeout(draw, DRAW_EVERY);
                },
                () => {},
              );
            timer ??= setTimeout(draw, DRAW_EVERY);
          },
          connection(word) {
            standing.set(run.id, word);
            const words = [...standing.values()];
            page.dataset.connection = words.every((one) => one === "ended") ? "ended" : "open";
            connection(
              words.includes("waiting") ? "A connection is gone; trying again" : words.includes("live") ? "Live" : "",
            );
          },
        },
        signal,
      ),
    ),
  );
}

/// Points of several lines on one axis.
function joined(lines) {
  const points = new Map();
  for (const [index, line] of lines.entries()) {
    for (const [step, value] of line) {
      if (value === null) continue;
      if (!points.has(step)) points.set(step, { step, values: lines.map(() => null) });
      points.get(step).values[index] = value;
    }
  }
  return [...points.values()].sort((a, b) => a.step - b.step);
}

function outcomeTable(runs) {
  const columns = [
    { title: "Run" },
    { title: "State" },
    { title: "Held-out loss", number: true },
    { title: "Steps", number: true },
    { title: "Trained tokens", number: true },
    { title: "Took", number: true },
  ];
  return table(
    "The runs",
    columns,
    runs.map(({ job, state }) => {
      const result = state.result ?? job.result;
      const last = optional(result?.evalLossAfter) ?? state.evaluations.at(-1)?.loss ?? null;
      const first = optional(result?.evalLossBefore) ?? state.evaluations[0]?.loss ?? null;
      return [
        el("a", { href: `#/jobs/${job.jobId}` }, jobName(job)),
        badge(job.state),
        last === null ? "–" : `${figure(first)} → ${figure(last)}`,
        count(state.steps.at(-1)?.step ?? number(job.step)),
        result ? count(result.trainedTokens) : "–",
        result?.trainSeconds ? seconds(number(result.trainSeconds) + number(result.evalSeconds)) : took(job),
      ];
    }),
  );
}

function settingsTable(runs, differences) {
  const columns = [{ title: "Setting" }, ...runs.map(({ job }) => ({ title: jobName(job) }))];
  return table(
    "What each run was asked for",
    columns,
    differences.map(([name, values]) => [el("code", {}, name), ...values.map((value) => value ?? "–")]),
  );
}

/// Settings by their path in the spec, those in which the specs differ.
function settings(specs) {
  const flat = specs.map((spec) => new Map(leaves(spec ?? {}, "")));
  const names = [...new Set(flat.flatMap((one) => [...one.keys()]))].filter((name) => name !== "displayName");
  const rows = names.map((name) => [name, flat.map((one) => one.get(name))]);
  return rows.filter(([, values]) => new Set(values).size > 1);
}

function leaves(value, path) {
  if (value === null || typeof value !== "object") return [[path, String(value)]];
  return Object.entries(value).flatMap(([name, inner]) => leaves(inner, path ? `${path}.${name}` : name));
}
