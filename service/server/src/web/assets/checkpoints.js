// The checkpoints of a job, to be downloaded.

import { get, jobPath, save, token } from "./api.js";
import { details, el, table } from "./dom.js";
import { bytes, figure, moment, number, optional } from "./format.js";

/// Shows the checkpoints of a job in a part of the page; the function given back looks again.
export function checkpoints(part, signal) {
  return async (job) => {
    const found = await get(`${jobPath(job.jobId)}/checkpoints?page_size=200`, { signal });
    const all = found.checkpoints ?? [];
    if (all.length === 0) return part.show();
    const columns = [
      { title: "Checkpoint" },
      { title: "Step", number: true },
      { title: "Held-out loss", number: true },
      { title: "Size", number: true },
      { title: "Saved" },
      { title: "Files" },
    ];
    const rows = all.map((one) => [
      [one.checkpointId, one.checkpointId === job.result?.bestCheckpointId && el("small", {}, "the best")],
      String(number(one.step)),
      figure(optional(one.evalLoss)),
      bytes(one.sizeBytes),
      el("time", { datetime: one.createTime }, moment(one.createTime)),
      details(`files-${one.checkpointId}`, `${(one.files ?? []).length + 1} files`, files(job.jobId, one)),
    ]);
    return part.show(
      table("Checkpoints, the newest first", columns, rows),
      found.nextPageToken && el("p", {}, "There are more; “hone checkpoints list” shows all."),
    );
  };
}

function files(jobId, checkpoint) {
  const manifest = { name: "manifest.json" };
  return el(
    "ul",
    { className: "files" },
    [...(checkpoint.files ?? []), manifest].map((file) => {
      const path = `${jobPath(jobId)}/checkpoints/${encodeURIComponent(checkpoint.checkpointId)}/files/${encodeURIComponent(file.name)}`;
      const told = el("span", { role: "status" });
      const link = el(
        "a",
        { href: path, download: file.name, onclick: (event) => take(event, path, file.name, told) },
        file.name,
      );
      return el("li", {}, link, file.sizeBytes && ` ${bytes(file.sizeBytes)} `, told);
    }),
  );
}

async function take(event, path, name, told) {
  // Without a token the browser's own download does, which needs no memory.
  if (!token()) return;
  event.preventDefault();
  told.textContent = "on its way";
  try {
    await save(path, name);
    told.textContent = "done";
  } catch (error) {
    told.textContent = `failed: ${error.message}`;
  }
}
