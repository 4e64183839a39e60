// Requests to the outside. The gateway sends them; the function is run again from its start with each answer, so nothing
// waits inside the sandbox.

import { decoded } from "./files.js";
import { dumps, microseconds } from "./plain.js";

const MAX_REQUESTS = 8;
const MAX_BODY = 256 * 1024;
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

// A request got no answer: the host cannot be reached, is too slow, or says too much.
export class HttpError extends Error {
  get name() {
    return "HttpError";
  }
}

// Ends a run at a request that is not answered yet. It is remembered, so catching it does not help.
export class Unanswered extends Error {
  get name() {
    return "Unanswered";
  }
}

// An answer, whatever its status: look at `ok` or `status`.
class Response {
  constructor(url, status, headers, content) {
    this.url = url;
    this.status = status;
    this.headers = headers;
    this.content = content;
  }

  get ok() {
    return this.status >= 200 && this.status < 300;
  }

  get text() {
    return new TextDecoder().decode(this.content);
  }

  json() {
    return JSON.parse(this.text);
  }
}

// `ctx.http`. What a function does before a request should be the same each time it is run.
export class Http {
  #answers;
  #allow;
  #asked;
  #made = 0;

  // `allow(origin)` throws where a host was not granted; `asked(request)` is told of what is not answered yet.
  constructor(answers, allow, asked) {
    this.#answers = answers;
    this.#allow = allow;
    this.#asked = asked;
  }

  get(url, options) {
    return this.request("GET", url, options);
  }

  post(url, options) {
    return this.request("POST", url, options);
  }

  put(url, options) {
    return this.request("PUT", url, options);
  }

  delete(url, options) {
    return this.request("DELETE", url, options);
  }

  // Options: params (added to the URL), headers, json or data (the body), timeout ("10s", at most 30 seconds).
  request(method, url, { params = {}, headers = {}, json, data, timeout = "10s" } = {}) {
    method = String(method).toUpperCase();
    if (!METHODS.includes(method)) throw new TypeError(`'${method}' is not one of ${METHODS.join(", ")}`);
    const query = new URLSearchParams(params).toString();
    if (query) url += (url.includes("?") ? "&" : "?") + query;
    this.#allow(origin(url));
    if (this.#made >= MAX_REQUESTS) throw new HttpError(`more than ${MAX_REQUESTS} requests in one call`);
    const [body, kind] = content(json, data);
    if (body.length > MAX_BODY) throw new RangeError(`a request's body may have ${MAX_BODY / 1024} KiB, not ${body.length} bytes`);
    const answer = this.#answers[this.#made++];
    if (answer) return answered(answer, method, url);
    const sent = { ...kind };
    for (const [name, value] of Object.entries(headers)) sent[name] = String(value);
    this.#asked(
      dumps({
        method,
        url,
        headers: sent,
        body: btoa(Array.from(body, (byte) => String.fromCharCode(byte)).join("")),
        timeout: microseconds(timeout, "timeout", "30 seconds"),
      })
    );
    throw new Unanswered("a request is not answered yet");
  }
}

// Scheme, host and port, as grants spell them.
function origin(url) {
  let parts = null;
  try {
    parts = new URL(url);
  } catch {
    // told below
  }
  if (!parts || !["https:", "http:"].includes(parts.protocol) || !parts.hostname || parts.username) {
    throw new TypeError(`'${String(url)}' is not the URL of a web page or service`);
  }
  return parts.origin;
}

function content(json, data) {
  const encoder = new TextEncoder();
  if (data === undefined || data === null) {
    return json === undefined ? [new Uint8Array(), {}] : [encoder.encode(dumps(json)), { "content-type": "application/json" }];
  }
  if (json !== undefined) throw new TypeError("give a request either json or data");
  return typeof data === "string" ? [encoder.encode(data), { "content-type": "text/plain; charset=utf-8" }] : [Uint8Array.from(data), {}];
}

function answered(answer, method, url) {
  if (answer.method !== method || answer.url !== url) {
    throw new Error(
      `the function asked for ${answer.method} ${answer.url} first, and now for ${method} ${url}: it is run again with ` +
        "each answer, so its requests must come in the same order"
    );
  }
  if ("error" in answer) throw new HttpError(answer.error);
  return new Response(url, answer.status, answer.headers ?? {}, decoded(answer.body ?? ""));
}
