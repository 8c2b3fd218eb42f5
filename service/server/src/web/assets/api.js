// Calls of the server. The token lies in this tab's session storage: it ends with the tab, no other site sees it, and no
// request carries it unless this code puts it there, so that there is nothing for a forged request to use.

const KEY = "hone-token";

export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setToken(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/// Why a call was refused.
export class Refused extends Error {
  constructor(status, { code = "", reason = "", message = "", remedy = "" } = {}) {
    super(message || `the server answered ${status}`);
    Object.assign(this, { status, code, reason, remedy });
  }

  /// Whether a token is missing or not known.
  get wantsToken() {
    return this.code === "Unauthenticated" && this.reason !== "CERTIFICATE_REQUIRED";
  }
}

/// Answers as they come, once they are no refusal.
export async function open(path, { headers = {}, signal } = {}) {
  const sent = token() ? { ...headers, authorization: `Bearer ${token()}` } : headers;
  const response = await fetch(path, { headers: sent, signal, cache: "no-store" });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refused(response.status, told.error);
}

export async function get(path, options) {
  return (await open(path, options)).json();
}

export function jobPath(jobId) {
  return `/api/jobs/${encodeURIComponent(jobId)}`;
}

/// Saves a file. A link cannot send the token, so that the browser's own download is taken where there is none.
export async function save(path, name) {
  const blob = await (await open(path)).blob();
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // The browser reads it after this turn.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/// Waits, or until `signal` aborts.
export function pause(milliseconds, signal) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      done();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
  });
}
