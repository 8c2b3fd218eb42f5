// The charts of a run: which there are, and what of the state each shows.

import { Chart } from "./chart.js";
import { el } from "./dom.js";
import { bytes, figure, share } from "./format.js";

const TRAIN = { name: "train", color: "train" };
const HELD_OUT = { name: "held-out", color: "held", band: true };

const KINDS = [
  [
    "Loss",
    [TRAIN, HELD_OUT],
    { note: "Lower is better. The area around held-out is one standard error." },
    (step) => [step.loss],
    (found) => [found.loss, found.error],
  ],
  [
    "Margin of rewards",
    [TRAIN, HELD_OUT],
    {
      note: "Reward of the chosen answer less that of the rejected one. Where train rises and held-out does not, the run overfits.",
    },
    (step) => [step.preference?.margin],
    (found) => [found.preference?.margin, found.preference?.marginError],
  ],
  [
    "Accuracy of preference",
    [TRAIN, HELD_OUT],
    { format: share, note: "Share of pairs whose chosen answer has the higher reward." },
    (step) => [step.preference?.accuracy],
    (found) => [found.preference?.accuracy, found.preference?.accuracyError],
  ],
  [
    "Token accuracy",
    [TRAIN, { ...HELD_OUT, band: false }],
    { format: share, note: "Share of trained tokens that the model ranks first." },
    (step) => [step.accuracy],
    (found) => [found.accuracy],
  ],
  ["Learning rate", [{ name: "learning rate", color: "train" }], {}, (step) => [step.learningRate]],
  ["Gradient norm", [{ name: "before clipping", color: "train" }], {}, (step) => [step.gradNorm]],
  ["Speed", [{ name: "tokens per second", color: "train" }], {}, (step) => [step.tokensPerSecond]],
  ["Memory of the trainer", [{ name: "peak", color: "train" }], { format: bytes }, (step) => [step.peakMemory || null]],
];

// Of the machine; what it lacks has no chart.
const USES = [
  [
    "Memory in use",
    [
      { name: "host", color: "train" },
      { name: "device", color: "held" },
    ],
    { format: bytes },
    (use) => [use.memory, use.deviceMemory],
  ],
  ["Processor", [{ name: "cores busy", color: "train" }], { format: figure }, (use) => [use.cores]],
  ["Device", [{ name: "share of time busy", color: "held" }], { format: share }, (use) => [use.deviceUse]],
  [
    "Memory of the device",
    [
      { name: "held by LibTorch", color: "train" },
      { name: "in tensors", color: "held" },
    ],
    { format: bytes },
    (use) => [use.reserved, use.allocated],
  ],
  [
    "Power and heat of the device",
    [
      { name: "watts", color: "train" },
      { name: "degrees Celsius", color: "held" },
    ],
    { format: figure },
    (use) => [use.watts, use.degrees],
  ],
  [
    "Disk and storage, a second",
    [
      { name: "to storage", color: "run-1" },
      { name: "from storage", color: "run-2" },
      { name: "to disk", color: "run-3" },
      { name: "from disk", color: "run-4" },
    ],
    { format: bytes },
    (use) => [use.toStorage, use.fromStorage, use.toDisk, use.fromDisk],
  ],
];

// Of the steps that tell what their time went to.
const TIMES = [
  "Time of a step, in seconds",
  [
    { name: "forward", color: "run-1" },
    { name: "backward", color: "run-2" },
    { name: "update", color: "run-3" },
    { name: "data", color: "run-4" },
    { name: "wait before it", color: "run-1", dashed: true },
  ],
  {},
];

/// The charts, which follow the colours of the page and its width.
export function charts(signal) {
  const ofRun = KINDS.map(([title, lines, options, ofStep, ofEvaluation]) => ({
    chart: new Chart(title, lines, options),
    ofStep,
    ofEvaluation,
  }));
  const ofUse = USES.map(([title, lines, options, of]) => ({ chart: new Chart(title, lines, options), of }));
  const times = new Chart(...TIMES);
  const all = [...ofRun.map(({ chart }) => chart), times, ...ofUse.map(({ chart }) => chart)];
  const element = el(
    "div",
    { className: "charts" },
    all.map((chart) => chart.element),
  );
  const refresh = () => all.forEach((chart) => chart.refresh());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh, { signal });
  const sizes = new ResizeObserver(refresh);
  sizes.observe(element);
  signal.addEventListener("abort", () => sizes.disconnect());
  return {
    element,
    show(state) {
      for (const { chart, ofStep, ofEvaluation } of ofRun) chart.show(merged(state, ofStep, ofEvaluation));
      const timed = state.steps.filter((step) => step.time !== null);
      times.show(timed.map(({ step, time }) => ({ step, values: time })));
      for (const { chart, of } of ofUse)
        chart.show(state.usage.map((use) => ({ step: use.step, values: of(use) })).filter(hasValue));
    },
  };
}

const known = (value) => value ?? null;
const hasValue = ({ values }) => values.some((value) => value !== null);

/// Steps and evaluations on one axis: the evaluation after a step is a point of the same step.
function merged({ steps, evaluations }, ofStep, ofEvaluation) {
  const points = [];
  let next = 0;
  const evaluated = (until) => {
    while (ofEvaluation && next < evaluations.length && evaluations[next].step < until)
      points.push(point(evaluations[next].step, null, evaluations[next++]));
  };
  const point = (step, taken, found) => {
    const value = taken ? known(ofStep(taken)[0]) : null;
    if (!ofEvaluation) return { step, values: [value] };
    const [held, error] = found ? ofEvaluation(found) : [null, null];
    return { step, values: [value, known(held)], errors: [null, known(error)] };
  };
  for (const taken of steps) {
    evaluated(taken.step);
    const found = ofEvaluation && evaluations[next]?.step === taken.step ? evaluations[next++] : null;
    points.push(point(taken.step, taken, found));
  }
  evaluated(Infinity);
  return points.filter(hasValue);
}
