// The list of jobs, newest first; looked at again while somebody looks.

import { get, pause, Refused } from "./api.js";
import { MAX_RUNS } from "./curves.js";
import { el, facts, table } from "./dom.js";
import { bytes, jobName, method, moment, number, stateWord, task } from "./format.js";
import { badge, progress, took } from "./standing.js";

const EVERY = 4000;
const STATES = [
  "QUEUED",
  "PREPARING",
  "RUNNING",
  "PAUSING",
  "PAUSED",
  "CANCELLING",
  "CANCELLED",
  "SUCCEEDED",
  "FAILED",
];

/// Shows the list in `page` until `signal` aborts.
export async function list(page, signal, connection) {
  document.title = "Jobs – hone";
  const shown = { token: "" };
  const choice = el(
    "select",
    { id: "state" },
    el("option", { value: "" }, "all"),
    STATES.map((state) => el("option", { value: `JOB_STATE_${state}` }, stateWord(state))),
  );
  const jobs = el("div", { className: "jobs" });
  const chosen = new Set();
  const beside = el(
    "button",
    {
      type: "button",
      disabled: true,
      onclick: () => {
        location.hash = `#/compare/${[...chosen].join("/")}`;
      },
    },
    "Show the chosen side by side",
  );
  const choose = (id, isChosen) => {
    if (isChosen) chosen.add(id);
    else chosen.delete(id);
    beside.disabled = chosen.size < 2 || chosen.size > MAX_RUNS;
  };
  const next = el("button", { type: "button", hidden: true }, "Older jobs");
  const first = el("button", { type: "button", hidden: true }, "Newest jobs");
  page.replaceChildren(
    el("h1", { tabindex: -1 }, "Jobs"),
    el(
      "form",
      { className: "filter", onsubmit: (event) => event.preventDefault() },
      el("label", { for: "state" }, "State "),
      choice,
      " ",
      beside,
    ),
    jobs,
    el("p", { className: "pages" }, first, next),
  );

  const look = async () => {
    const query = new URLSearchParams({ page_size: 50, page_token: shown.token });
    if (choice.value) query.set("state", choice.value);
    const found = await get(`/api/jobs?${query}`, { signal });
    write(jobs, found.jobs ?? [], choice.value, chosen, choose);
    next.hidden = !found.nextPageToken;
    next.onclick = () => turn(found.nextPageToken);
    first.hidden = !shown.token;
    connection("");
  };
  // Whoever turns a page does not wait for the next look.
  let turned;
  const turn = (token) => {
    shown.token = token;
    turned();
  };
  first.onclick = () => turn("");
  choice.onchange = () => turn("");
  await look();
  while (!signal.aborted) {
    const wanted = new Promise((done) => {
      turned = () => done(true);
    });
    const isWanted = await Promise.race([wanted, pause(EVERY, signal)]);
    if (signal.aborted || (!isWanted && (document.hidden || shown.token))) continue;
    try {
      await look();
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.wantsToken) throw error;
      connection(`The list is not up to date: ${error.message}`);
    }
  }
}

// Written anew only where something changed, so that focus and what a reader has selected stay.
function write(place, jobs, state, chosen, choose) {
  const told = JSON.stringify([jobs, state]);
  if (place.dataset.told === told) return;
  place.dataset.told = told;
  const { activeElement } = document;
  const focused =
    place.contains(activeElement) &&
    (activeElement.id ? `#${activeElement.id}` : `a[href="${activeElement.getAttribute("href")}"]`);
  if (jobs.length === 0) {
    place.replaceChildren(
      el("p", {}, state ? `No job is ${stateWord(state)}.` : "There is no job yet. Create one with “hone train”."),
    );
    return;
  }
  const columns = ["Job", "State", "Task", "Progress", "Created", "Took", "Choose"].map((title) => ({ title }));
  const box = (job) =>
    el("input", {
      type: "checkbox",
      id: `choose-${job.jobId}`,
      "aria-label": `Choose ${jobName(job)}`,
      checked: chosen.has(job.jobId),
      onchange: (event) => choose(job.jobId, event.target.checked),
    });
  place.replaceChildren(
    table(
      "Jobs, the newest first",
      columns,
      jobs.map((job) => [...row(job), box(job)]),
    ),
  );
  if (focused) place.querySelector(focused)?.focus();
}

function row(job) {
  return [
    [el("a", { href: `#/jobs/${job.jobId}` }, jobName(job)), job.spec?.displayName && el("small", {}, job.jobId)],
    [badge(job.state), el("small", {}, job.failure?.message ?? job.stateDetail)],
    [task(job.spec).name.toUpperCase(), el("small", {}, method(job.spec))],
    progress(job),
    el("time", { datetime: job.createTime }, moment(job.createTime)),
    took(job),
  ];
}

/// What the server is, and what it computes on.
export async function server(page, signal) {
  document.title = "Server – hone";
  const info = await get("/api/info", { signal });
  const limits = info.limits ?? {};
  const devices = info.devices ?? [];
  const columns = [{ title: "Device" }, { title: "What it is" }, { title: "Memory", number: true }];
  page.replaceChildren(
    el("h1", { tabindex: -1 }, "Server"),
    facts([
      ["hone", info.version],
      ["LibTorch", info.libtorchVersion],
      ["Attention kernels", (info.attentionKernels ?? []).join(", ")],
      ["Storage root", info.storageRoot],
      ["Jobs at once", String(number(info.maxRunningJobs))],
      ["Jobs waiting at most", String(number(limits.maxQueuedJobs))],
      ["Largest dataset", bytes(limits.maxDatasetBytes)],
      ["Largest model", bytes(limits.maxModelBytes)],
    ]),
    devices.length > 0
      ? table(
          "Devices",
          columns,
          devices.map((device) => [
            device.name,
            device.description ?? "",
            device.memoryBytes ? bytes(device.memoryBytes) : "–",
          ]),
        )
      : el("p", {}, "Devices are known once the trainer has looked, some seconds after the start."),
  );
}
