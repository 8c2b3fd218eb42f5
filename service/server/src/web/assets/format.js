// Numbers and names as people read them.

/// A number of protobuf's JSON: left out means 0, 64 bits come as text, what is not finite as a word.
export function number(value) {
  return value === undefined || value === null ? 0 : Number(value);
}

/// The same where left out means that there is none.
export function optional(value) {
  return value === undefined || value === null ? null : Number(value);
}

/// A figure in four digits or so.
export function figure(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  if (size >= 100) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/// The same with its sign.
export function signed(value) {
  return (value > 0 ? "+" : "") + figure(value);
}

export function count(value) {
  return number(value).toLocaleString("en");
}

export function share(value) {
  return `${(number(value) * 100).toFixed(1)}%`;
}

export function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let size = number(value);
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? size : size.toFixed(size < 10 ? 1 : 0)}\u00a0${units[unit]}`;
}

export function seconds(value) {
  const total = Math.max(0, number(value));
  if (total < 10) return `${total.toFixed(1)}\u00a0s`;
  if (total < 90) return `${Math.round(total)}\u00a0s`;
  const minutes = Math.round(total / 60);
  if (minutes < 90) return `${minutes}\u00a0min`;
  return `${Math.floor(minutes / 60)}\u00a0h ${String(minutes % 60).padStart(2, "0")}\u00a0min`;
}

/// A moment in the reader's own time.
export function moment(text) {
  return new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/// `JOB_STATE_RUNNING` as `running`.
export function word(name, prefix) {
  return (name ?? "").replace(prefix, "").replaceAll("_", " ").toLowerCase();
}

/// The part of a job's state that people read.
export function stateWord(state) {
  return word(state, "JOB_STATE_");
}

export function isFinal(state) {
  return ["JOB_STATE_CANCELLED", "JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED"].includes(state);
}

const TASKS = ["sft", "dpo", "evaluate", "compare", "generate", "export", "benchmark"];

/// What a spec asks for: the task's name and its settings.
export function task(spec) {
  const name = TASKS.find((name) => spec?.[name]) ?? "";
  return { name, settings: spec?.[name] ?? {} };
}

/// What is trained: an adapter, all weights, or nothing.
export function method(spec) {
  const { adapter } = task(spec).settings;
  if (adapter?.full) return "all weights";
  if (!adapter?.lora) return "";
  const { rank, useDora } = adapter.lora;
  return `${useDora ? "DoRA" : "LoRA"}${rank ? `, rank ${rank}` : ""}`;
}

/// Where something lies, short: the end of its URI.
export function tail(uri, parts = 1) {
  return (uri ?? "").replace(/\/+$/, "").split("/").slice(-parts).join("/");
}

export function jobName(job) {
  return job.spec?.displayName || job.jobId;
}
