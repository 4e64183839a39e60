// Functions for the edge gateway in AssemblyScript: what a module may import (docs/languages.md), with its own strings.

@external("edge", "app")
declare function importApp(json: usize, length: i32): void;
@external("edge", "trigger")
declare function importTrigger(json: usize, length: i32): void;
@external("edge", "text")
declare function importText(path: usize, length: i32, to: usize, capacity: i32): i32;
@external("edge", "number")
declare function importNumber(path: usize, length: i32): f64;
@external("edge", "command")
declare function importCommand(
  device: usize, deviceLength: i32, name: usize, nameLength: i32, args: usize, argsLength: i32,
  expires: f64, key: usize, keyLength: i32
): void;
@external("edge", "emit")
declare function importEmit(kind: usize, kindLength: i32, data: usize, dataLength: i32): void;
@external("edge", "defer")
declare function importDefer(
  kind: usize, kindLength: i32, data: usize, dataLength: i32, after: f64, key: usize, keyLength: i32
): void;
@external("edge", "cancel")
declare function importCancel(key: usize, length: i32): void;
@external("edge", "log")
declare function importLog(level: i32, text: usize, length: i32): void;
@external("edge", "value")
declare function importValue(json: usize, length: i32): void;
@external("edge", "reply")
declare function importReply(status: i32, type: usize, typeLength: i32, body: usize, bodyLength: i32): void;
@external("edge", "fail")
declare function importFail(why: usize, length: i32): void;
@external("edge", "metric")
declare function importMetric(name: usize, length: i32, value: f64): void;
@external("edge", "http")
declare function importHttp(json: usize, length: i32): i32;
@external("edge", "secret")
declare function importSecret(name: usize, length: i32, to: usize, capacity: i32): i32;
@external("edge", "file")
declare function importFile(path: usize, length: i32, to: usize, capacity: i32): i32;
@external("edge", "state_set")
declare function importStateSet(name: usize, nameLength: i32, json: usize, length: i32, ttl: f64): void;
@external("edge", "state_set_number")
declare function importStateSetNumber(name: usize, nameLength: i32, value: f64, ttl: f64): void;
@external("edge", "state_delete")
declare function importStateDelete(name: usize, nameLength: i32): void;

function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

function at(bytes: ArrayBuffer): usize {
  return changetype<usize>(bytes);
}

/** Text as JSON. */
export function quote(text: string): string {
  let quoted = '"';
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code == 0x22 || code == 0x5c) quoted += "\\" + String.fromCharCode(code);
    else if (code < 0x20) quoted += "\\u00" + (code < 0x10 ? "0" : "") + code.toString(16);
    else quoted += String.fromCharCode(code);
  }
  return quoted + '"';
}

/** Name the app, and what it asks to be granted. Call it at the top, and then say for each function what it is for. */
export function app(name: string, grants: string[] = []): void {
  const json = utf8('{"name":' + quote(name) + ',"grants":[' + grants.map<string>((grant) => quote(grant)).join(",") + "]}");
  importApp(at(json), json.byteLength);
}

/** A trigger as JSON, with any option that docs/languages.md names. */
export function trigger(described: string): void {
  const json = utf8(described);
  importTrigger(at(json), json.byteLength);
}

/** Run the exported function `name` for each event of a kind. */
export function on(name: string, kind: string, where: string = ""): void {
  trigger('{"type":"on","name":' + quote(name) + ',"kind":' + quote(kind) + ',"where":' + quote(where) + "}");
}

/** Send what the exported function `name` gives to `value`, for each event of a kind, to a target. */
export function route(name: string, kind: string, to: string, where: string = ""): void {
  trigger(
    '{"type":"route","name":' + quote(name) + ',"kind":' + quote(kind) + ',"to":' + quote(to) +
    ',"where":' + quote(where) + "}"
  );
}

/** Run the exported function `name` every so often ("10m"). */
export function schedule(name: string, every: string): void {
  trigger('{"type":"schedule","name":' + quote(name) + ',"every":' + quote(every) + "}");
}

/** Answer POST requests to `/apps/<app><path>` with what the exported function `name` gives to `reply` or `value`. */
export function endpoint(name: string, path: string): void {
  trigger('{"type":"http","name":' + quote(name) + ',"path":' + quote(path) + "}");
}

/** A number of the event ("data.temperature") or of its state ("state.count"). */
export function number(path: string, otherwise: f64 = 0): f64 {
  const name = utf8(path);
  const found = importNumber(at(name), name.byteLength);
  return isNaN(found) ? otherwise : found;
}

/** Text of the event or of its state; what is not text as JSON; null where there is none. */
export function text(path: string): string | null {
  const name = utf8(path);
  let to = new ArrayBuffer(256);
  let length = importText(at(name), name.byteLength, at(to), to.byteLength);
  if (length > to.byteLength) {
    to = new ArrayBuffer(length);
    length = importText(at(name), name.byteLength, at(to), length);
  }
  return length < 0 ? null : String.UTF8.decodeUnsafe(at(to), length);
}

/** Order a device (the event's, unless said otherwise) to do something; `args` are JSON, `expires` is in seconds. */
export function command(name: string, args: string = "", expires: f64 = 60, key: string = "", device: string = ""): void {
  const device_ = utf8(device), name_ = utf8(name), args_ = utf8(args), key_ = utf8(key);
  importCommand(
    at(device_), device_.byteLength, at(name_), name_.byteLength, at(args_), args_.byteLength,
    expires, at(key_), key_.byteLength
  );
}

/** Put a new event into the log; `data` is JSON. */
export function emit(kind: string, data: string): void {
  const kind_ = utf8(kind), data_ = utf8(data);
  importEmit(at(kind_), kind_.byteLength, at(data_), data_.byteLength);
}

/** Have an event come `after` so many seconds; with a key it takes the place of the pending one, and can be taken back. */
export function defer(kind: string, data: string, after: f64, key: string = ""): void {
  const kind_ = utf8(kind), data_ = utf8(data), key_ = utf8(key);
  importDefer(at(kind_), kind_.byteLength, at(data_), data_.byteLength, after, at(key_), key_.byteLength);
}

/** Take back the event that was deferred under a key. */
export function cancel(key: string): void {
  const key_ = utf8(key);
  importCancel(at(key_), key_.byteLength);
}

/** Write a line to the app's log; `level` is 0 debug, 1 info, 2 warning or 3 error. */
export function log(line: string, level: i32 = 1): void {
  const line_ = utf8(line);
  importLog(level, at(line_), line_.byteLength);
}

/** What a route sends, as JSON. */
export function value(json: string): void {
  const json_ = utf8(json);
  importValue(at(json_), json_.byteLength);
}

/** What an endpoint answers: status, type of the content (such as "text/plain") and body. */
export function reply(status: i32, type: string, body: string): void {
  const type_ = utf8(type), body_ = utf8(body);
  importReply(status, at(type_), type_.byteLength, at(body_), body_.byteLength);
}

/** Note a measured value. */
export function metric(name: string, value: f64 = 1): void {
  const name_ = utf8(name);
  importMetric(at(name_), name_.byteLength, value);
}

/**
 * Send a request, a JSON object with "url", and "method", "headers", "params", "json" or "data", "timeout" where needed.
 * Answers its status, 0 for none; the rest is at text("response.text"), number("response.data.NAME"), text("response.error").
 */
export function http(request: string): i32 {
  const request_ = utf8(request);
  return importHttp(at(request_), request_.byteLength);
}

/** A secret that was granted. */
export function secret(name: string): string {
  const name_ = utf8(name);
  const to = new ArrayBuffer(importSecret(at(name_), name_.byteLength, 0, 0));
  return String.UTF8.decodeUnsafe(at(to), importSecret(at(name_), name_.byteLength, at(to), to.byteLength));
}

/** A file of the app's folder; null where there is none of that name. */
export function file(path: string): ArrayBuffer | null {
  const path_ = utf8(path);
  const length = importFile(at(path_), path_.byteLength, 0, 0);
  if (length < 0) return null;
  const to = new ArrayBuffer(length);
  importFile(at(path_), path_.byteLength, at(to), length);
  return to;
}

/** Fail; does not return. */
export function fail(why: string): void {
  const why_ = utf8(why);
  importFail(at(why_), why_.byteLength);
}

/** Keep a value (JSON) for the device of the event, for `ttl` seconds; 0 is for ever. */
export function keep(name: string, json: string, ttl: f64 = 0): void {
  const name_ = utf8(name), json_ = utf8(json);
  importStateSet(at(name_), name_.byteLength, at(json_), json_.byteLength, ttl);
}

/** Keep a number, likewise. */
export function keepNumber(name: string, value: f64, ttl: f64 = 0): void {
  const name_ = utf8(name);
  importStateSetNumber(at(name_), name_.byteLength, value, ttl);
}

/** Keep it no longer. */
export function forget(name: string): void {
  const name_ = utf8(name);
  importStateDelete(at(name_), name_.byteLength);
}
