// One chart: a drawing for eyes, a sentence for ears, a slider that walks along it by keys, and its numbers as a table.

import uPlot from "./uplot/uPlot.esm.js";
import { details, el, nextId, table } from "./dom.js";
import { figure } from "./format.js";

const HEIGHT = 220;
// Rows of a chart's table; a run has more steps than anybody reads.
const MAX_ROWS = 200;

/// A chart over steps. A line is {name, color, dashed, band}: `band` draws its standard error as an area.
export class Chart {
  #lines;
  #format;
  #plot = null;
  #points = [[]];
  #rows = [];
  #canvas = el("div", { className: "canvas", "aria-hidden": "true" });
  #sentence = el("p", { className: "sentence" });
  #readout;
  #walk;
  #legend;
  #table = el("div");

  constructor(title, lines, { format = figure, note = "" } = {}) {
    this.#lines = lines;
    this.#format = format;
    const id = `chart-${nextId()}`;
    this.#readout = el("output", { for: id });
    this.#walk = el("input", {
      id,
      type: "range",
      min: 0,
      max: 0,
      value: 0,
      oninput: () => this.#walkTo(Number(this.#walk.value)),
    });
    const numbers = details(id, "As a table", this.#table);
    numbers.addEventListener("toggle", () => this.#fill(numbers.open));
    this.#legend = lines.map((line) =>
      el("li", { className: `line-${line.color}${line.dashed ? " dashed" : ""}` }, line.name),
    );
    this.element = el(
      "figure",
      {},
      el("figcaption", {}, el("h3", {}, title), note && el("p", { className: "note" }, note)),
      el("ul", { className: "legend" }, this.#legend),
      this.#readout,
      this.#canvas,
      el("div", { className: "walk" }, el("label", { for: id }, `Walk along “${title}”`), this.#walk),
      this.#sentence,
      numbers,
    );
    this.numbers = numbers;
  }

  /// Draws points: {step, values: [value or null per line], errors: [standard error or null per line]}, by step.
  show(points) {
    this.element.hidden = points.length === 0;
    if (points.length === 0) return;
    this.#rows = points;
    const columns = [points.map((point) => point.step)];
    for (const [index, line] of this.#lines.entries()) {
      const values = points.map((point) => point.values[index]);
      columns.push(values);
      if (line.band) {
        const edge = (sign) =>
          points.map(({ values, errors }) =>
            values[index] === null ? null : values[index] + sign * (errors?.[index] ?? 0),
          );
        columns.push(edge(1), edge(-1));
      }
    }
    this.#legend.forEach((item, index) => {
      item.hidden = points.every((point) => point.values[index] === null);
    });
    this.#points = columns;
    this.#draw();
    this.#sentence.textContent = this.#lines
      .map((line, index) => this.#summary(line, index))
      .filter(Boolean)
      .join(" ");
    this.#walk.max = points.length - 1;
    this.#fill(this.numbers.open);
  }

  /// Takes colours and width anew.
  refresh() {
    if (!this.#plot) return;
    this.#plot.setSize({ width: this.#width(), height: HEIGHT });
    this.#plot.redraw(false, true);
  }

  #width() {
    return Math.max(240, Math.floor(this.#canvas.clientWidth));
  }

  #draw() {
    if (this.#plot) return this.#plot.setData(this.#points);
    if (this.#canvas.clientWidth === 0) return undefined;
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    const series = [{}];
    const bands = [];
    for (const line of this.#lines) {
      series.push({
        label: line.name,
        stroke: () => color(line.color),
        width: 2,
        spanGaps: true,
        dash: line.dashed ? [6, 4] : undefined,
        points: { show: (plot, index) => isSparse(plot.data[index]), size: 5 },
      });
      if (line.band) {
        const edge = { stroke: () => "transparent", width: 0, spanGaps: true, points: { show: false } };
        series.push({ ...edge }, { ...edge });
        bands.push({ series: [series.length - 2, series.length - 1], fill: () => color(`${line.color}-band`) });
      }
    }
    const axis = {
      stroke: () => color("quiet"),
      grid: { stroke: () => color("line"), width: 1 },
      ticks: { stroke: () => color("line"), width: 1 },
    };
    this.#plot = new uPlot(
      {
        width: this.#width(),
        height: HEIGHT,
        series,
        bands,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, y: false },
        scales: { x: { time: false } },
        axes: [
          { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6] },
          { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => this.#format(tick)) },
        ],
        hooks: { setCursor: [(plot) => this.#read(plot.cursor.idx)] },
      },
      this.#points,
      this.#canvas,
    );
    return undefined;
  }

  #walkTo(index) {
    const left = this.#plot?.valToPos(this.#rows[index].step, "x");
    if (left !== undefined) this.#plot.setCursor({ left, top: HEIGHT / 4 });
    this.#read(index);
    this.#walk.setAttribute("aria-valuetext", this.#readout.textContent);
  }

  #read(index) {
    const row = index === null || index === undefined ? null : this.#rows[index];
    this.#readout.textContent = row
      ? `step ${row.step}: ${this.#cells(row)
          .map((cell, line) => cell && `${this.#lines[line].name} ${cell}`)
          .filter(Boolean)
          .join(", ")}`
      : "";
  }

  #cells(row) {
    return row.values.map((value, index) => {
      if (value === null) return "";
      const error = row.errors?.[index];
      return this.#format(value) + (error ? ` ± ${this.#format(error)}` : "");
    });
  }

  #summary(line, index) {
    const found = this.#rows.filter((row) => row.values[index] !== null);
    if (found.length === 0) return "";
    const values = found.map((row) => row.values[index]);
    const [first, last] = [values[0], values.at(-1)].map(this.#format);
    if (found.length === 1) return `${line.name}: ${last}.`;
    const range = `between ${this.#format(min(values))} and ${this.#format(max(values))}`;
    return `${line.name}: from ${first} to ${last}, ${range}, up to step ${found.at(-1).step}.`;
  }

  #fill(isOpen) {
    if (!isOpen) return;
    const every = Math.ceil(this.#rows.length / MAX_ROWS);
    const last = this.#rows.length - 1;
    const rows = this.#rows.filter((_, index) => index % every === 0 || index === last);
    const columns = [
      { title: "step", number: true },
      ...this.#lines.map((line) => ({ title: line.name, number: true })),
    ];
    const caption = every > 1 ? `Every ${every}th of ${this.#rows.length} points` : `${this.#rows.length} points`;
    this.#table.replaceChildren(
      table(
        caption,
        columns,
        rows.map((row) => [String(row.step), ...this.#cells(row)]),
      ),
    );
  }
}

// Spreading a long run into arguments would overflow the stack.
const min = (values) => values.reduce((a, b) => Math.min(a, b));
const max = (values) => values.reduce((a, b) => Math.max(a, b));

// Points that are few or lie apart are shown as such.
function isSparse(values) {
  const found = values.filter((value) => value !== null).length;
  return found <= 40;
}
