// One job, followed live.

import { answers } from "./answers.js";
import { benchmark } from "./benchmark.js";
import { get, jobPath } from "./api.js";
import { charts } from "./charts.js";
import { checkpoints } from "./checkpoints.js";
import { dataReports } from "./data.js";
import { details, el, facts, section, table } from "./dom.js";
import { follow } from "./events.js";
import {
  count,
  figure,
  isFinal,
  jobName,
  method,
  moment,
  number,
  optional,
  seconds,
  share,
  tail,
  task,
  word,
} from "./format.js";
import { hardExamples } from "./hard.js";
import { insight } from "./insight.js";
import { scores } from "./scores.js";
import { badge, took } from "./standing.js";
import { fresh, take } from "./state.js";

// Drawing more often than this shows nobody more.
const DRAW_EVERY = 250;

/// Shows a job in `page` and follows it until `signal` aborts.
export async function job(page, jobId, signal, connection) {
  const state = fresh();
  let { job } = await get(jobPath(jobId), { signal });
  document.title = `${jobName(job)} – hone`;
  const view = new View(page, signal);
  view.write(job, state, new Set(view.names));
  view.refreshCheckpoints(job);

  const touched = new Set();
  let events = 0;
  let timer = null;
  const draw = async () => {
    timer = null;
    const parts = new Set(touched);
    touched.clear();
    if (parts.has("job")) {
      parts.add("head");
      job = await get(jobPath(jobId), { signal }).then(
        (found) => found.job,
        () => job,
      );
    }
    if (signal.aborted) return;
    view.write(job, state, parts);
    page.dataset.drawn = events;
    if (parts.has("checkpoints") || isFinal(job.state)) view.refreshCheckpoints(job);
  };
  const on = {
    event(event, id) {
      page.dataset.sequence = id;
      page.dataset.events = ++events;
      for (const part of take(state, event)) touched.add(part);
      timer ??= setTimeout(draw, DRAW_EVERY);
    },
    connection(word) {
      page.dataset.connection = word;
      connection({ live: "Live", connecting: "", waiting: "The connection is gone; trying again", ended: "" }[word]);
    },
  };
  await follow(jobId, on, signal);
}

class View {
  #signal;
  #title = el("h1", { tabindex: -1 });
  #id = el("p", { className: "id" });
  #standing = el("div", { className: "standing", role: "status" });
  #progress = el("div", { className: "progress" });
  #failure = el("div");
  #facts = el("div");
  #charts;
  #checkpoints;
  #parts = {
    result: section("Result"),
    scores: section("Scores"),
    answers: section("Answers"),
    benchmark: section("Benchmark"),
    warnings: section("Warnings"),
    failures: section("Failures of attempts"),
    exported: section("Export"),
    insight: section("Insight"),
    hard: section("Hard examples"),
    data: section("Dataset"),
    checkpoints: section("Checkpoints"),
    log: section("What happened"),
    spec: section("Spec in force"),
  };
  #run = section("Run");

  constructor(page, signal) {
    this.#signal = signal;
    this.#charts = charts(signal);
    this.#checkpoints = checkpoints(this.#parts.checkpoints, signal);
    const {
      result,
      scores,
      answers,
      benchmark: measured,
      warnings,
      failures,
      exported,
      insight: learned,
      hard,
      data,
      checkpoints: saved,
      log,
      spec,
    } = this.#parts;
    const order = [
      result,
      scores,
      answers,
      measured,
      this.#run,
      learned,
      warnings,
      failures,
      exported,
      hard,
      data,
      saved,
      log,
      spec,
    ];
    page.replaceChildren(
      this.#title,
      this.#id,
      this.#standing,
      this.#progress,
      this.#failure,
      this.#facts,
      order.map((part) => part.element).reduce((all, one) => (all.append(one), all), document.createDocumentFragment()),
    );
    this.#run.show(this.#charts.element);
    this.#run.element.hidden = true;
  }

  get names() {
    return ["head", "charts", ...Object.keys(this.#parts)];
  }

  refreshCheckpoints(job) {
    this.#checkpoints(job).catch((error) => {
      if (!this.#signal.aborted)
        this.#parts.checkpoints.show(
          el("p", { className: "failure" }, `The checkpoints cannot be listed: ${error.message}`),
        );
    });
  }

  write(job, state, parts) {
    const spec = job.spec ?? state.spec;
    if (parts.has("head")) this.#head(job, state, spec);
    if (parts.has("charts")) {
      this.#run.element.hidden = state.steps.length + state.evaluations.length === 0;
      this.#charts.show(state);
    }
    const show = (name, ...children) => parts.has(name) && this.#parts[name].show(...children);
    show("result", state.result && result(state.result, task(spec).name));
    show("scores", state.scores && scores(state.scores, task(spec).name));
    show("answers", state.answers && answers(state.answers));
    show("benchmark", state.benchmark && benchmark(state.benchmark));
    show(
      "warnings",
      state.warnings.length > 0 &&
        el(
          "ul",
          { className: "notes" },
          state.warnings.map((one) => el("li", {}, el("code", {}, one.code), " ", one.message)),
        ),
    );
    // The one that ended the job stands above.
    const earlier = state.failures.filter(
      (one) => one.message !== job.failure?.message || one.attempt !== number(job.attempt),
    );
    show("failures", earlier.length > 0 && earlier.map((one) => failure(one, `Attempt ${one.attempt}`)));
    show("exported", state.exported && exported(state.exported));
    show("insight", insight(state));
    show("hard", state.hard && hardExamples(state.hard));
    show("data", dataReports(state.reports));
    show("log", state.log.length > 0 && log(state.log));
    show("spec", spec && details("spec", "As JSON", el("pre", { tabindex: 0 }, JSON.stringify(spec, null, 2))));
  }

  #head(job, state, spec) {
    this.#title.textContent = jobName(job);
    this.#id.textContent = job.spec?.displayName ? job.jobId : "";
    const detail =
      state.phase && !isFinal(job.state)
        ? [word(state.phase.name), state.phase.detail].filter(Boolean).join(": ")
        : job.stateDetail;
    replace(this.#standing, job.state + detail, () => [badge(job.state), detail && el("span", {}, detail)]);
    this.#progress.replaceChildren(...progress(job, state));
    replace(this.#failure, JSON.stringify(job.failure), () => [
      job.failure && failure(job.failure, "The job has failed", "h2"),
    ]);
    const { name, settings } = task(spec);
    const epochs = state.steps.at(-1)?.epoch;
    this.#facts.replaceChildren(
      facts([
        ["Task", name.toUpperCase()],
        ["Trains", method(spec)],
        ["Base model", tail(spec?.baseModel?.uri, 2)],
        ["Rows", (settings.data?.train ?? settings.data?.rows ?? []).map((uri) => tail(uri)).join(", ")],
        ["Project", job.project],
        [
          "Labels",
          Object.entries(spec?.labels ?? {})
            .map(([key, value]) => `${key}=${value}`)
            .join(", "),
        ],
        ["Created", job.createTime && el("time", { datetime: job.createTime }, moment(job.createTime))],
        ["Took", took(job)],
        ["Attempts", number(job.attempt) > 1 && String(job.attempt)],
        ["Device", state.plan?.device && `${state.plan.device}, ${state.plan.precision ?? ""}`],
        [
          "Parameters",
          state.plan?.trainableParameters &&
            `${count(state.plan.trainableParameters)} trained of ${count(state.plan.baseParameters)}`,
        ],
        ["Epochs", epochs && epochs.toFixed(2)],
      ]),
    );
  }
}

// Written only where it says something new: it is read aloud each time.
function replace(place, told, make) {
  if (place.dataset.told === told) return;
  place.dataset.told = told;
  place.replaceChildren(...make().filter(Boolean));
}

function progress(job, state) {
  const last = state.steps.at(-1);
  const step = Math.max(number(job.step), last?.step ?? 0);
  const total = number(job.totalSteps) || number(state.plan?.totalSteps);
  if (total === 0) return [];
  const forecast =
    last && last.step < total && job.state === "JOB_STATE_RUNNING" ? `, about ${seconds(last.remaining)} left` : "";
  const loss = last?.loss === null || last === undefined ? "" : `; loss ${figure(last.loss)}`;
  return [
    el("progress", { max: total, value: step, "aria-label": "Steps" }),
    el("p", {}, `Step ${count(step)} of ${count(total)}${forecast}${loss}`),
  ];
}

function failure(failed, title, heading = "h3") {
  return el(
    "div",
    { className: "failure" },
    el(heading, {}, `${title}: ${word(failed.reason, "FAILURE_REASON_")}`),
    el("p", {}, failed.message ?? ""),
    facts([
      ["Where", failed.location, true],
      ["What to try", failed.remedy, true],
    ]),
  );
}

function result(found, name) {
  const change = (before, after) => before !== null && after !== null && `${figure(before)} → ${figure(after)}`;
  const trains = ["sft", "dpo"].includes(name);
  const pairs = (of) => change(optional(found.preferenceBefore?.[of]), optional(found.preferenceAfter?.[of]));
  return facts([
    ["Held-out loss", change(optional(found.evalLossBefore), optional(found.evalLossAfter))],
    [
      "Held-out accuracy",
      found.preferenceAfter && `${share(found.preferenceBefore?.accuracy)} → ${share(found.preferenceAfter.accuracy)}`,
    ],
    ["Held-out margin", pairs("margin")],
    ["Steps", trains && count(found.steps)],
    ["Trained tokens", number(found.trainedTokens) > 0 && count(found.trainedTokens)],
    ["Time of training", number(found.trainSeconds) > 0 && seconds(found.trainSeconds)],
    ["Time of evaluations", number(found.evalSeconds) > 0 && seconds(found.evalSeconds)],
    ["Skipped steps", number(found.skippedSteps) > 0 && count(found.skippedSteps)],
    ["Best checkpoint", trains && found.bestCheckpointId],
    ["Last checkpoint", found.finalCheckpointId],
    ["Where it lies", found.finalCheckpointUri, true],
  ]);
}

function exported(report) {
  const lost = (value) => value !== undefined && share(value);
  return facts([
    ["Format", report.format],
    ["Weights", `${count(report.parameters)} as ${report.weightType}`],
    ["Tensors that training changed", count(report.mergedTensors)],
    ["Of the update lost to rounding", lost(report.updateLost)],
    [
      "The tensor that lost most",
      report.worstTensor && `${report.worstTensor}: ${lost(report.worstUpdateLost) || "0"}`,
      true,
    ],
    ["Embedding and head", report.untied && "were one, are two"],
  ]);
}

function log(entries) {
  const columns = [{ title: "Time" }, { title: "Attempt", number: true }, { title: "What" }, { title: "Detail" }];
  const rows = entries.map(({ time, attempt, what, detail }) => [
    el("time", { datetime: time }, new Date(time).toLocaleTimeString()),
    attempt ? String(attempt) : "–",
    what.replaceAll("JOB_STATE_", "").toLowerCase(),
    detail,
  ]);
  return details("log", `${entries.length} entries`, table("What happened, in order", columns, rows));
}
