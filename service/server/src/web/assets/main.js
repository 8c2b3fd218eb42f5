// The page: which view an address means, and the way in where a token is needed.

import { Refused, setToken, token } from "./api.js";
import { curves } from "./curves.js";
import { el } from "./dom.js";
import { job } from "./job.js";
import { list, server } from "./list.js";

const main = document.getElementById("main");
const forget = document.getElementById("forget");
const connectionLine = document.getElementById("connection");
let leaving = new AbortController();
let isFirst = true;

function connection(words) {
  if (connectionLine.textContent !== words) connectionLine.textContent = words;
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const page = el("div");
  connection("");
  forget.hidden = !token();
  main.replaceChildren(page);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === (location.hash || "#/")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  focusHeading(page, signal);
  try {
    await view(page, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Refused && error.wantsToken) ask(page, error);
    else refused(page, error);
  }
}

function view(page, signal) {
  const [, what = "", ...ids] = location.hash.split("/").map(decodeURIComponent);
  const [id] = ids;
  if (what === "jobs" && id) return job(page, id, signal, connection);
  if (what === "compare" && id) return curves(page, ids, signal, connection);
  if (what === "server") return server(page, signal);
  return list(page, signal, connection);
}

// Who hears the page is told that it has changed; who has just come begins at its beginning.
function focusHeading(page, signal) {
  if (isFirst) {
    isFirst = false;
    return;
  }
  const watcher = new MutationObserver(() => {
    const heading = page.querySelector("h1");
    if (!heading) return;
    watcher.disconnect();
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  });
  watcher.observe(page, { childList: true, subtree: true });
  signal.addEventListener("abort", () => watcher.disconnect());
}

function ask(page, error) {
  document.title = "Token – hone";
  connection("");
  const known = Boolean(token());
  setToken("");
  forget.hidden = true;
  const input = el("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "about-token",
  });
  page.replaceChildren(
    el("h1", { tabindex: -1 }, "Token"),
    known && el("p", { className: "failure", role: "alert" }, error.message),
    el(
      "form",
      {
        className: "token",
        onsubmit: (event) => {
          event.preventDefault();
          setToken(input.value.trim());
          show();
        },
      },
      el("label", { for: "token" }, "Token of this server"),
      input,
      el("button", { type: "submit" }, "Look in"),
    ),
    el("p", { id: "about-token" }, "It stays in this tab until the tab is closed, and goes to this server only."),
    !isSafe() &&
      el(
        "p",
        { className: "failure" },
        "This page did not come over an encrypted connection: whoever listens on the way can read the token.",
      ),
  );
  input.focus();
}

function isSafe() {
  return window.isSecureContext || ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
}

function refused(page, error) {
  document.title = "hone";
  connection("");
  const again = el("button", { type: "button", onclick: show }, "Try again");
  page.replaceChildren(
    el("h1", { tabindex: -1 }, error.status === 404 ? "Not found" : "That did not work"),
    el("p", { className: "failure", role: "alert" }, error.message),
    error.remedy && el("p", {}, error.remedy),
    again,
  );
}

forget.addEventListener("click", () => {
  setToken("");
  show();
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", show);
show();
