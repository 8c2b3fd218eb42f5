// How noisy the gradients are, and where the run began to learn by heart.

import { el, facts, table } from "./dom.js";
import { count, figure, number, optional, share } from "./format.js";

/// Nothing where the run has told nothing.
export function insight({ noise, turn, leakage }) {
  const parts = [];
  if (noise) parts.push(noisy(noise));
  if (turn) parts.push(turned(turn));
  if (leakage) parts.push(leaked(leakage));
  return parts.length > 0 && parts;
}

function noisy(noise) {
  const scale = optional(noise.noiseScale);
  const known = scale !== null && [
    ["Gradient noise scale", `${figure(scale)} ± ${figure(number(noise.standardError))} examples`],
    ["Signal in a step's gradient", share(noise.signalShare)],
    ["Examples in a step", count(noise.examplesPerStep)],
    ["Told at step", count(noise.step)],
  ];
  return el("div", {}, known && facts(known), el("p", {}, noise.advice));
}

function leaked(leakage) {
  const exact = count(leakage.exactRows);
  const near = count(leakage.nearRows);
  const rows = (leakage.rows ?? []).map((pair) => [
    `${number(pair.row)}`,
    `${number(pair.trainRow)}`,
    share(pair.similarity),
    pair.text ?? "",
    pair.trainText ?? "",
  ]);
  return el(
    "div",
    {},
    el(
      "p",
      { className: "failure" },
      `Of ${count(leakage.heldOutRows)} held-out rows ${exact} say the same as a training row, ${near} nearly the same: `,
      "the held-out loss flatters the run.",
    ),
    table(
      "The held-out rows that are most like training rows",
      [
        { title: "Held-out row", number: true },
        { title: "Training row", number: true },
        { title: "In common", number: true },
        { title: "Its text" },
        { title: "The training row's" },
      ],
      rows,
    ),
  );
}

function turned(turn) {
  const change = `${figure(number(turn.heldOutChange))} ± ${figure(number(turn.standardError))}`;
  const losses = `${figure(number(turn.trainingLossThen))} to ${figure(number(turn.trainingLossNow))}`;
  return el(
    "p",
    { className: "failure" },
    `It learns its rows by heart since step ${count(turn.turnedAtStep)}: held-out rows are ${change} harder, `,
    `while the training loss went from ${losses}.`,
  );
}
