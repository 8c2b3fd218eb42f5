// How a job stands: its state, how far it is, how long it takes.

import { el } from "./dom.js";
import { isFinal, jobName, number, seconds, stateWord } from "./format.js";

/// A job's state as a word in a colour.
export function badge(state) {
  return el("span", { className: `badge ${stateWord(state)}` }, stateWord(state));
}

/// How far a job is.
export function progress(job) {
  const [step, total] = [number(job.step), number(job.totalSteps)];
  if (total === 0) return step ? `step ${step}` : "–";
  return [
    el("progress", { max: total, value: step, "aria-label": `Progress of ${jobName(job)}` }),
    el("small", {}, `step ${step} of ${total}`),
  ];
}

/// How long a job has taken so far, or in all.
export function took(job) {
  if (!job.startTime) return "–";
  const end = isFinal(job.state) && job.endTime ? new Date(job.endTime) : new Date();
  return seconds((end - new Date(job.startTime)) / 1000);
}
