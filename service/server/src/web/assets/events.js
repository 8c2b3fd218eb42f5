// The events of a job as a stream that goes on by itself: each once, in order, over as many connections as it takes.
// EventSource would do all of this, but sends no token.

import { jobPath, open, pause, Refused } from "./api.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
// The server breaks silence every 10 seconds.
const LONGEST_SILENCE = 25_000;

/// Follows a job until it has ended or `signal` aborts. `on.event(event, id)` gets each event, `on.connection(word)` how the
/// connection stands: connecting, live, waiting or ended. A refusal that will not pass by itself is thrown.
export async function follow(jobId, on, signal) {
  let last = 0;
  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    on.connection("connecting");
    try {
      for await (const message of messages(jobId, last, signal, () => on.connection("live"))) {
        if (message.type === "end") return on.connection("ended");
        if (message.type === "problem") throw new Refused(0, JSON.parse(message.data).error);
        const id = Number(message.id);
        if (id <= last) continue;
        last = id;
        wait = FIRST_WAIT;
        on.event(JSON.parse(message.data), id);
      }
    } catch (error) {
      if (signal.aborted) return;
      // A server that is stopping, busy, or behind a proxy that cannot reach it comes back.
      const passes =
        !(error instanceof Refused) ||
        ["Unavailable", "ResourceExhausted"].includes(error.code) ||
        [429, 502, 503, 504].includes(error.status);
      if (!passes) throw error;
    }
    on.connection("waiting");
    await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

/// The messages of one connection.
async function* messages(jobId, last, signal, opened) {
  const attempt = new AbortController();
  const abort = () => attempt.abort();
  signal.addEventListener("abort", abort);
  let silence = setTimeout(abort, LONGEST_SILENCE);
  try {
    const headers = { accept: "text/event-stream", ...(last > 0 && { "last-event-id": String(last) }) };
    const response = await open(`${jobPath(jobId)}/events`, { headers, signal: attempt.signal });
    opened();
    const parser = new Parser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(abort, LONGEST_SILENCE);
      yield* parser.take(value);
    }
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", abort);
    attempt.abort();
  }
}

/// Reads the form of HTML's "Server-sent events", as far as the server writes it, however it is cut.
export class Parser {
  #rest = "";

  *take(text) {
    const blocks = (this.#rest + text).split("\n\n");
    this.#rest = blocks.pop();
    for (const block of blocks) {
      const message = { type: "message", id: "", data: "" };
      for (const line of block.split("\n")) {
        const at = line.indexOf(":");
        const [name, value] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
        if (name === "event") message.type = value;
        else if (name === "id") message.id = value;
        else if (name === "data") message.data += value;
      }
      if (message.data) yield message;
    }
  }
}
