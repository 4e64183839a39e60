// What a function of app.http answers to a request.

import { dumps } from "./plain.js";

const FIELD_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$/;
const FIELD_VALUE = /^[\x20-\x7e\t]{0,4096}$/;
const RESERVED = ["connection", "content-length", "date", "server", "transfer-encoding", "upgrade"];

// An answer with a status (200 to 599), a body and headers of its own. An object or array becomes JSON, text plain text,
// a Uint8Array is sent as it is; null is no body.
export class Reply {
  constructor(status = 200, body = null, { headers = {} } = {}) {
    if (!Number.isInteger(status) || status < 200 || status > 599) throw new RangeError(`'${String(status)}' is not a status from 200 to 599`);
    this.status = status;
    this.body = body;
    this.headers = {};
    for (const [name, value] of Object.entries(headers)) {
      if (!FIELD_NAME.test(name) || typeof value !== "string" || !FIELD_VALUE.test(value)) throw new TypeError(`the header '${name}': '${String(value)}' is not one of HTTP`);
      if (RESERVED.includes(name.toLowerCase())) throw new TypeError(`the header '${name}' is the gateway's to set`);
      this.headers[name.toLowerCase()] = value;
    }
  }
}

// What a function returned, as the answer that the gateway sends, in JSON.
export function described(value) {
  const reply = value instanceof Reply ? value : value === undefined || value === null ? new Reply(204) : new Reply(200, value);
  const { status, body, headers } = reply;
  if (body instanceof Uint8Array) {
    const text = btoa(Array.from(body, (byte) => String.fromCharCode(byte)).join(""));
    return dumps({ status, body: text, base64: true, headers: { "content-type": "application/octet-stream", ...headers } });
  }
  if (typeof body === "string") return dumps({ status, body, headers: { "content-type": "text/plain; charset=utf-8", ...headers } });
  if (body === null || body === undefined) return dumps({ status, headers });
  return dumps({ status, body: dumps(body), headers: { "content-type": "application/json", ...headers } });
}
