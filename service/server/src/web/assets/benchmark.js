// How fast training is with several settings, in benchmark jobs.

import { el, table } from "./dom.js";
import { bytes, count, number, optional, seconds, word } from "./format.js";

export function benchmark(report) {
  const columns = [
    { title: "Precision" },
    { title: "Tokens at once", number: true },
    { title: "Activations" },
    { title: "Attention" },
    { title: "Step", number: true },
    { title: "Memory", number: true },
    { title: "Tokens/s", number: true },
  ];
  return [
    report.recommended && el("p", {}, "Recommended: ", el("strong", {}, settings(report.recommended).join(", "))),
    table("Each choice of settings on the same steps", columns, (report.runs ?? []).map(run)),
  ];
}

function run(one) {
  const { precision, tokensPerMicroBatch, activationCheckpointing } = one.settings ?? {};
  const steps = (one.stepSeconds ?? []).map(number);
  const mean = steps.reduce((sum, step) => sum + step, 0) / Math.max(steps.length, 1);
  const memory = optional(one.peakMemoryBytes);
  return [
    word(precision, "PRECISION_"),
    count(tokensPerMicroBatch),
    word(activationCheckpointing, "ACTIVATION_CHECKPOINTING_"),
    one.attentionKernel ?? "",
    one.failure ? "failed" : seconds(mean),
    one.failure || memory === null ? "" : bytes(memory),
    one.failure || count(Math.round(number(one.tokensPerSecond))),
  ];
}

function settings({ precision, tokensPerMicroBatch, activationCheckpointing, attention }) {
  return [
    word(precision, "PRECISION_"),
    `${count(tokensPerMicroBatch)} tokens at once`,
    `activation checkpointing ${word(activationCheckpointing, "ACTIVATION_CHECKPOINTING_")}`,
    attention ? `attention ${word(attention, "ATTENTION_KERNEL_")}` : "the device’s attention",
  ];
}
