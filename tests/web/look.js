// What the tests ask of a page, put into it by the browser before its own scripts.
window.look = (() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const figures = () => all("figure").filter((figure) => !figure.hidden);
  const titleOf = (figure) => figure.querySelector("h3").textContent;

  /// Whether a job's stream has ended and all of it is drawn.
  function isWhole() {
    const { dataset } = one("main > div");
    return Boolean(one(".standing .badge")) && dataset.connection === "ended" && dataset.drawn === dataset.events;
  }

  /// Cells of the first chart's table.
  function rows() {
    return all("figure table tbody tr").map((row) => [...row.cells].map((cell) => cell.innerText));
  }

  const color = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, under) => {
    const mixed = (name) => top[name] * top.a + under[name] * (1 - top.a);
    return { r: mixed("r"), g: mixed("g"), b: mixed("b"), a: 1 };
  };
  const luminance = ({ r, g, b }) => {
    const linear = (part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const background = (element) => {
    const above = element.parentElement ? background(element.parentElement) : { r: 255, g: 255, b: 255, a: 1 };
    return over(color(getComputedStyle(element).backgroundColor), above);
  };

  /// Texts whose colours are too near each other: contrast of WCAG 2.2, 4.5 to 1, of large text 3 to 1.
  function faint() {
    const bad = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.textContent.trim();
      const element = walker.currentNode.parentElement;
      if (!text || element.closest("script, noscript, .canvas, option") || !element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const under = background(element);
      const [a, b] = [luminance(over(color(style.color), under)), luminance(under)];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const size = parseFloat(style.fontSize);
      const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (isLarge ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
    }
    return bad;
  }

  /// What is wider than the window.
  function wide() {
    const isOut = (element) => element.checkVisibility() && element.getBoundingClientRect().right > innerWidth + 1;
    const found = all("body *").filter(
      (element) => isOut(element) && !element.closest(".u-wrap, pre, blockquote, .skip"),
    );
    return found.map((element) => `${element.tagName}.${element.className}`).slice(0, 5);
  }

  /// Points of the first chart in the colour of a standard error's area.
  function shaded() {
    const canvas = one("figure canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const wanted = color(getComputedStyle(document.documentElement).getPropertyValue("--held-band"));
    const near = (at, part) => Math.abs(data[at] - part) <= 6;
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
      const isIt = near(at, wanted.r) && near(at + 1, wanted.g) && near(at + 2, wanted.b);
      if (isIt && data[at + 3] > 20 && data[at + 3] < 100) found += 1;
    }
    return found;
  }

  return {
    isWhole,
    shaded,
    rows,
    faint,
    wide,
    state: () => one(".standing .badge")?.textContent,
    number: (name) => Number(one("main > div").dataset[name]),
    connection: () => one("#connection").textContent,
    heading: () => one("h1")?.textContent,
    charts: () => figures().map(titleOf),
    legend: (title) =>
      figures()
        .find((figure) => titleOf(figure) === title)
        .querySelector(".legend").innerText,
    openTable: () => {
      one("figure details").open = true;
    },
    readout: () => one("figure output").textContent,
    rowOf: (jobId) => one(`a[href="#/jobs/${jobId}"]`)?.closest("tr").innerText,
    isSaid: (words) => all("[role=status]").some((place) => place.textContent === words),
    headings: () =>
      all("h1, h2, h3, h4")
        .filter((heading) => heading.checkVisibility())
        .map((heading) => Number(heading.tagName[1])),
    twice: () =>
      all("[id]")
        .map(({ id }) => id)
        .filter((id, index, ids) => ids.indexOf(id) !== index),
    untitled: () => all("table").filter((table) => !table.caption?.textContent.trim()).length,
  };
})();
