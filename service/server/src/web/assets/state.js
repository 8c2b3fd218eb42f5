// What the events of a job come to: one event in, the state changed, the names of the parts that it touched out.

import { number, optional } from "./format.js";

export function fresh() {
  return {
    steps: [],
    evaluations: [],
    usage: [],
    reports: new Map(),
    warnings: [],
    failures: [],
    log: [],
    hard: null,
    noise: null,
    turn: null,
    leakage: null,
    plan: null,
    scores: null,
    answers: null,
    benchmark: null,
    exported: null,
    result: null,
    phase: null,
    spec: null,
    lastTime: null,
  };
}

/// Takes an event in.
export function take(state, event) {
  state.lastTime = event.time;
  const name = Object.keys(CHANGES).find((name) => event[name]);
  return name ? CHANGES[name](state, event[name], event) : [];
}

const CHANGES = {
  stateChanged(state, change, event) {
    state.phase = null;
    note(state, event, `${change.from ?? ""} → ${change.to}`, change.detail);
    return ["job", "log"];
  },
  phase(state, phase, event) {
    state.phase = phase;
    note(state, event, phase.name, phase.detail);
    return ["head", "log"];
  },
  datasetReport(state, report) {
    state.reports.set(report.split, report);
    return ["data"];
  },
  effectiveSpec(state, spec) {
    state.spec = spec;
    return ["head", "spec"];
  },
  plan(state, plan) {
    state.plan = plan;
    return ["head"];
  },
  trainStep(state, step) {
    state.phase = null;
    // An attempt that goes on from a checkpoint takes steps again.
    cut(state.steps, number(step.step));
    state.steps.push({
      step: number(step.step),
      loss: optional(step.loss),
      gradNorm: optional(step.gradNorm),
      learningRate: number(step.learningRate),
      tokensPerSecond: number(step.tokensPerSecond),
      accuracy: number(step.tokenAccuracy),
      peakMemory: number(step.peakMemoryBytes),
      remaining: number(step.remainingSeconds),
      epoch: number(step.epoch),
      skipped: Boolean(step.skipped),
      preference: preference(step.preference),
      time: times(step.time),
    });
    return ["head", "charts"];
  },
  evaluation(state, found) {
    const step = number(found.step);
    cut(state.evaluations, step);
    state.evaluations.push({
      step,
      loss: optional(found.loss),
      error: number(found.lossStandardError),
      perplexity: optional(found.perplexity),
      accuracy: number(found.tokenAccuracy),
      examples: number(found.examples),
      best: Boolean(found.best),
      preference: preference(found.preference),
    });
    return ["head", "charts"];
  },
  hardExamples(state, hard) {
    state.hard = hard;
    return ["hard"];
  },
  gradientNoise(state, noise) {
    state.noise = noise;
    return ["insight"];
  },
  overfitting(state, turn) {
    state.turn = turn;
    return ["insight"];
  },
  leakage(state, leakage) {
    state.leakage = leakage;
    return ["insight"];
  },
  checkpointSaved(state, saved, event) {
    note(state, event, `checkpoint ${saved.checkpointId}`, "");
    return ["checkpoints", "log"];
  },
  resourceUsage(state, usage) {
    state.usage.push({
      step: state.steps.at(-1)?.step ?? 0,
      memory: number(usage.hostMemoryBytes),
      cores: number(usage.cpuCores),
      deviceMemory: optional(usage.deviceMemoryBytes),
      deviceUse: optional(usage.deviceUtilization),
      allocated: optional(usage.deviceAllocatedBytes),
      reserved: optional(usage.deviceReservedBytes),
      watts: optional(usage.devicePowerWatts),
      degrees: optional(usage.deviceTemperatureCelsius),
      toStorage: optional(usage.storageWriteBytesPerSecond),
      fromStorage: optional(usage.storageReadBytesPerSecond),
      toDisk: optional(usage.diskWriteBytesPerSecond),
      fromDisk: optional(usage.diskReadBytesPerSecond),
    });
    return ["charts"];
  },
  warning(state, warning, event) {
    state.warnings.push({ ...warning, time: event.time, attempt: number(event.attempt) });
    return ["warnings"];
  },
  failure(state, failure, event) {
    state.failures.push({ ...failure, time: event.time, attempt: number(event.attempt) });
    return ["failures"];
  },
  result(state, result) {
    state.result = result;
    return ["result", "checkpoints"];
  },
  exportReport(state, report) {
    state.exported = report;
    return ["exported"];
  },
  resumed(state, resumed, event) {
    note(
      state,
      event,
      `goes on from ${resumed.checkpointId}`,
      `step ${number(resumed.step)}, ${resumed.optimizer ?? ""}`,
    );
    return ["log"];
  },
  earlyStopped(state, stop, event) {
    const best = `best ${stop.metric} ${stop.best ?? "–"} at step ${number(stop.bestStep)}`;
    note(
      state,
      event,
      `stops early at step ${number(stop.step)}`,
      `${best}; ${number(stop.evaluations)} evaluations since were not better`,
    );
    return ["log"];
  },
  benchmark(state, report) {
    state.benchmark = report;
    return ["benchmark"];
  },
  answers(state, answers) {
    state.answers = answers;
    return ["answers"];
  },
  scores(state, scores) {
    state.scores = scores;
    return ["scores"];
  },
};

// In the order of the chart's lines.
function times(found) {
  if (!found) return null;
  const parts = [
    found.forwardSeconds,
    found.backwardSeconds,
    found.updateSeconds,
    found.dataSeconds,
    found.waitSeconds,
  ];
  return parts.map(number);
}

function preference(found) {
  if (!found) return null;
  return {
    accuracy: number(found.accuracy),
    accuracyError: number(found.accuracyStandardError),
    margin: number(found.margin),
    marginError: number(found.marginStandardError),
    chosen: number(found.rewardChosen),
    rejected: number(found.rewardRejected),
  };
}

// Drops what was said of this step and later ones.
function cut(items, step) {
  while (items.length > 0 && items.at(-1).step >= step) items.pop();
}

function note(state, event, what, detail) {
  state.log.push({ time: event.time, attempt: number(event.attempt), what, detail: detail ?? "" });
}
