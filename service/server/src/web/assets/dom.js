// Elements. Text only ever becomes a text node: names, rows and messages come from strangers.

/// An element with properties, and children that are nodes, texts, lists of these, or nothing.
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false),
  );
  return element;
}

/// An element of a drawing.
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/// A part of a page under a heading of its own; hidden while it has nothing to say.
export function section(title, { level = 2 } = {}) {
  const heading = el(`h${level}`, { id: `part-${nextId()}` }, title);
  const body = el("div");
  const element = el("section", { "aria-labelledby": heading.id, hidden: true }, heading, body);
  return {
    element,
    show(...children) {
      const kept = openDetails(body);
      body.replaceChildren(...children.flat(Infinity).filter(Boolean));
      for (const details of body.querySelectorAll("details")) if (kept.has(details.dataset.key)) details.open = true;
      element.hidden = body.childNodes.length === 0;
    },
  };
}

// What a reader has opened stays open when the part is written anew.
function openDetails(body) {
  return new Set([...body.querySelectorAll("details[open]")].map((details) => details.dataset.key).filter(Boolean));
}

/// Something to open, which stays open under its key.
export function details(key, summary, ...children) {
  return el("details", { "data-key": key }, el("summary", {}, summary), ...children);
}

/// A table; a column is its heading and whether it holds numbers. A cell is a text, a node or a list of these.
export function table(caption, columns, rows) {
  const heads = columns.map((column) =>
    el("th", { scope: "col", role: "columnheader", className: column.number && "number" }, column.title),
  );
  const row = (cells) =>
    el(
      "tr",
      { role: "row" },
      cells.map((cell, index) => {
        const { title, number } = columns[index];
        const role = index === 0 ? { scope: "row", role: "rowheader" } : { role: "cell" };
        return el(index === 0 ? "th" : "td", { ...role, className: number && "number", "data-label": title }, cell);
      }),
    );
  // Roles said aloud: on a phone rows are laid out as cards, which would take them away.
  return el(
    "table",
    { role: "table" },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads)),
    el("tbody", { role: "rowgroup" }, rows.map(row)),
  );
}

/// Names and what they are; what is long takes a line of its own.
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return el(
    "dl",
    {},
    shown.map(([name, value, isWide]) =>
      el("div", { className: isWide && "wide" }, el("dt", {}, name), el("dd", {}, value)),
    ),
  );
}

let lastId = 0;
/// A number that no element of this page has yet.
export function nextId() {
  return ++lastId;
}
