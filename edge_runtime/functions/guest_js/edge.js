// What an app imports from "edge": apps and their triggers, and what a function can do.

import { Files } from "./files.js";
import { Http } from "./http.js";
import { dumps, microseconds } from "./plain.js";

const APP = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const LEVELS = ["debug", "info", "warning", "error"];
const MAX_STATE_NAME = 128;
const MOST_RETRIES = 100;
const MAX_METRICS = 20;
const MAX_REFUSED = 8; // refusals of one call that the gateway is told of
const COMMON = { name: "", retries: 2, onError: "skip" };
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const PATH = /^(\/|(\/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}){1,8})$/;
const SECRET_HEADERS = ["authorization", "cookie", "proxy-authorization"];
const SPECIAL = [async () => {}, function* () {}, async function* () {}].map((f) => f.constructor);

// The app is not well formed; the message says what to change.
export class AppError extends Error {
  get name() {
    return "AppError";
  }
}

// The app asked for something that it was not granted.
export class NotGranted extends Error {
  get name() {
    return "NotGranted";
  }
}

// More output than the limits allow. It is remembered, so catching it does not help.
export class OutputLimit extends Error {
  get name() {
    return "OutputLimit";
  }
}

export const made = []; // the apps of the file that is being loaded

// A set of functions that are deployed together. One file holds one app.
export class App {
  // `grants` asks for what a function does not have by itself, and the operator approves when the app is deployed.
  constructor(name, { grants = [] } = {}) {
    if (typeof name !== "string" || !APP.test(name)) {
      throw new AppError(`new App(${JSON.stringify(name)}): a name is 1 to 64 letters, digits, '_' or '-', the first a letter or digit`);
    }
    if (!Array.isArray(grants) || !grants.every((grant) => typeof grant === "string")) {
      throw new AppError(`new App(${JSON.stringify(name)}): grants is an array, such as grants: ["http:api.example.com"]`);
    }
    this.name = name;
    this.grants = [...grants];
    this.triggers = new Map();
    made.push(this);
  }

  // Run a function for each event of a kind: on("climate", { where: "temperature > 30" }, function overheat(event, ctx) {...})
  on(kind, options, run) {
    return this.#each("on", { serial: false }, kind, options, run);
  }

  // Send what a function returns, for each event of a kind, to a target of edge.toml: route("climate", { to: "cloud" }, ...)
  route(kind, options, run) {
    return this.#each("route", { to: "" }, kind, options, run);
  }

  // Run a function at moments: schedule({ every: "10m" }, ...), or schedule({ cron: "0 6 * * *", tz: "Europe/Zurich" }, ...)
  schedule(options, run) {
    const call = "app.schedule";
    const trigger = this.#read("schedule", call, { ...COMMON, every: undefined, cron: "", tz: "UTC", missed: "skip" }, options, run);
    const { every, cron, tz, missed } = trigger;
    if ((every === undefined) === !cron) throw new AppError(`${call} takes one of every: "10m" and cron: "0 6 * * *"`);
    if (typeof cron !== "string" || typeof tz !== "string") throw new AppError(`${call}: cron and tz are text`);
    if (missed !== "skip" && missed !== "once") throw new AppError(`${call}: missed is neither 'skip' nor 'once'`);
    try {
      trigger.every = every === undefined ? 0 : microseconds(every, "every", "a year");
    } catch (error) {
      throw new AppError(`${call}: ${error.message}`);
    }
    if (trigger.every && trigger.every < 1_000_000) throw new AppError(`${call}: every: a second is the least`);
    return this.#add({ ...trigger, kind: `$schedule.${this.name}.${trigger.name}` });
  }

  // Answer requests to /apps/<app><path> of the gateway with what a function returns: http("/order", { methods: ["POST"] }, ...)
  http(path, options, run) {
    if (typeof options === "function") [options, run] = [{}, options];
    const call = `app.http(${JSON.stringify(path)})`;
    const defaults = { ...COMMON, retries: 0, methods: ["POST"], public: false, headers: [] };
    const trigger = this.#read("http", call, defaults, options, run);
    const { methods, headers } = trigger;
    if (typeof path !== "string" || !PATH.test(path)) throw new AppError(`${call}: a path is '/', or such as '/orders/new': letters, digits, '_', '.', '-'`);
    if (!Array.isArray(methods) || !methods.length || !methods.every((method) => METHODS.includes(method))) throw new AppError(`${call}: methods are some of ${METHODS.join(", ")}`);
    if (typeof trigger.public !== "boolean") throw new AppError(`${call}: public is neither true nor false`);
    if (!Array.isArray(headers) || !headers.every((header) => typeof header === "string" && /^[a-z0-9-]{1,64}$/i.test(header))) throw new AppError(`${call}: headers are names of headers`);
    const secret = headers.find((header) => SECRET_HEADERS.includes(header.toLowerCase()));
    if (secret) throw new AppError(`${call}: the header '${secret}' is not handed on: what it holds would be stored`);
    for (const other of this.triggers.values()) {
      if (other.path === path && other.methods.some((method) => methods.includes(method))) throw new AppError(`${call}: '${other.name}' answers there already`);
    }
    return this.#add({ ...trigger, path, headers: headers.map((header) => header.toLowerCase()), kind: `$http.${this.name}.${trigger.name}` });
  }

  manifest() {
    const triggers = [...this.triggers.values()].map(({ run, onError, ...plain }) => ({ ...plain, on_error: onError }));
    return { app: this.name, grants: this.grants, triggers };
  }

  #each(type, more, kind, options, run) {
    if (typeof options === "function") [options, run] = [{}, options];
    const call = `app.${type}(${JSON.stringify(kind)})`;
    if (typeof kind !== "string" || !NAME.test(kind)) throw new AppError(`${call}: a kind is 1 to 64 letters, digits, '_', '.' or '-'`);
    const trigger = this.#read(type, call, { ...COMMON, where: "", start: "latest", ...more }, options, run);
    const { where, start, serial, to } = trigger;
    if (typeof where !== "string") throw new AppError(`${call}: where is text, such as where: "temperature > 30"`);
    if (start !== "latest" && start !== "earliest") throw new AppError(`${call}: start is neither 'latest' nor 'earliest'`);
    if (type === "on" && typeof serial !== "boolean") throw new AppError(`${call}: serial is neither true nor false`);
    if (type === "route" && (typeof to !== "string" || !NAME.test(to))) throw new AppError(`${call}: name a target of edge.toml, such as to: "cloud"`);
    return this.#add({ ...trigger, kind });
  }

  // The options of a trigger and its function, as far as all triggers have them alike.
  #read(type, call, defaults, options, run) {
    if (typeof run !== "function") throw new AppError(`${call}: the last argument is the function to run`);
    for (const option of Object.keys(options ?? {})) {
      if (!(option in defaults)) throw new AppError(`${call}: there is no option '${option}'; there are ${Object.keys(defaults).join(", ")}`);
    }
    const trigger = { type, where: "", start: "latest", ...defaults, ...options, run };
    trigger.name = options?.name || run.name;
    const { name, retries, onError } = trigger;
    if (!name) throw new AppError(`${call}: the function needs a name: write function overheat(event, ctx) {...}, or name: "overheat" among the options`);
    if (typeof name !== "string" || !NAME.test(name)) throw new AppError(`${call}: the function's name '${String(name)}' is not 1 to 64 letters, digits, '_', '.' or '-'`);
    if (!Number.isInteger(retries) || retries < 0 || retries > MOST_RETRIES) throw new AppError(`${call}: retries is not a number from 0 to ${MOST_RETRIES}`);
    if (!["skip", "hold", "stop"].includes(onError)) throw new AppError(`${call}: onError is none of 'skip', 'hold' and 'stop'`);
    if (SPECIAL.some((kind) => run instanceof kind)) throw new AppError(`${call}: '${name}' must be a plain function, neither async nor a generator`);
    return trigger;
  }

  #add(trigger) {
    if (this.triggers.has(trigger.name)) throw new AppError(`'${trigger.name}' has a trigger already: a function has one trigger and a name of its own`);
    this.triggers.set(trigger.name, trigger);
    return this;
  }
}

// What a function keeps from one event to the next. `stored`: name -> [JSON, expiry]; `now`: the event's `received`.
class State {
  #stored;
  #now;
  #open = new Map(); // name -> [value, expiry]
  #removed = new Set();

  constructor(stored, now) {
    this.#stored = stored;
    this.#now = now;
  }

  #lives(name) {
    const entry = Object.hasOwn(this.#stored, name) ? this.#stored[name] : undefined;
    return entry !== undefined && !(entry[1] > 0 && entry[1] <= this.#now);
  }

  has(name) {
    return this.#open.has(name) || (!this.#removed.has(name) && this.#lives(name));
  }

  // The value kept under a name; undefined where there is none. Arrays and objects may be changed in place.
  get(name) {
    if (!this.#open.has(name)) {
      if (!this.has(name)) return undefined;
      const [text, until] = this.#stored[name];
      this.#open.set(name, [JSON.parse(text), until]);
    }
    return this.#open.get(name)[0];
  }

  // Keep a plain value; with `ttl` (seconds, or text such as "12h") only for so long.
  set(name, value, { ttl } = {}) {
    if (typeof name !== "string" || name.length < 1 || name.length > MAX_STATE_NAME) {
      throw new TypeError(`'${String(name)}' is not the name of a state entry: text of 1 to ${MAX_STATE_NAME} characters`);
    }
    dumps(value); // what cannot be kept is refused here, where the mistake is
    const until = ttl === undefined ? 0 : this.#now + microseconds(ttl, "ttl", "ten years");
    this.#open.set(name, [value, until]);
    this.#removed.delete(name);
    return this;
  }

  delete(name) {
    const was = this.has(name);
    this.#open.delete(name);
    this.#removed.add(name);
    return was;
  }

  keys() {
    const names = Object.keys(this.#stored).filter((name) => this.has(name));
    for (const name of this.#open.keys()) if (!Object.hasOwn(this.#stored, name)) names.push(name);
    return names;
  }

  // What is to be stored, null for what is gone; and all entries as they are then.
  static changes(state) {
    const found = {};
    for (const [name, [value, until]] of state.#open) {
      const text = dumps(value);
      const before = Object.hasOwn(state.#stored, name) ? state.#stored[name] : undefined;
      if (!before || before[0] !== text || before[1] !== until) found[name] = [text, until];
    }
    for (const name of Object.keys(state.#stored)) if (!state.has(name)) found[name] = null;
    const after = { ...state.#stored, ...found };
    for (const name of Object.keys(found)) if (found[name] === null) delete after[name];
    return [found, after];
  }
}

// Handed to a function with each event. Effects are collected, and carried out only if the function returns.
export class Context {
  #event;
  #terms;
  #given;
  #stored;
  #state;
  #http;
  #room;
  #report; // what the gateway is told of the call

  // `stored`: what the function keeps for the event's device; null for a route, which only returns a value.
  constructor(event, terms, given, stored, report) {
    this.#event = event;
    this.#terms = terms;
    this.#given = given;
    this.#stored = stored;
    this.#room = terms.limits.output;
    this.#report = report;
  }

  get state() {
    return (this.#state ??= new State(this.#kept("keep state"), this.#event.received));
  }

  // Requests to the hosts that the app was granted: ctx.http.get("https://api.example.com/weather").json()
  get http() {
    this.#kept("make requests");
    const asked = (request) => (this.#report.unanswered = request);
    return (this.#http ??= new Http(this.#given.answers?.[this.#event.id] ?? [], (origin) => this.#require("http", origin), asked));
  }

  // The files in the app's folder that are not JavaScript.
  get files() {
    this.#require("files", "");
    return new Files(this.#terms.files);
  }

  // A secret that the app was granted.
  secret(name) {
    this.#require("secret", name);
    const secrets = this.#given.secrets ?? {};
    if (!Object.hasOwn(secrets, name)) throw new Error(`the secret '${name}' has no value yet; on the gateway: edge secret set ${name}`);
    return secrets[name];
  }

  // Note a measured value, or without one that something has happened once more.
  metric(name, value = 1) {
    this.#kept("note metrics");
    named(name, "a metric's name");
    if (typeof value !== "number" || !(Math.abs(value) < 1e300)) throw new TypeError(`'${String(value)}' is not a number`);
    if (this.#report.metrics.length >= MAX_METRICS) this.#exceed(`more than ${MAX_METRICS} metrics in one call`);
    this.#report.metrics.push([name, value]);
  }

  // Order `device` to do something, once the call has succeeded and its effects are stored.
  command(device, name, args = null, { expires = "60s", key = "" } = {}) {
    this.#kept("give commands");
    if (device !== this.#event.device) this.#require("command", String(device));
    named(name, "a command's name");
    const ttl = microseconds(expires, "expires", "7 days");
    if (key) named(key, "a command's key");
    const latest = key ? `,"key":"${key}"` : "";
    this.#effect(`{"type":"command","device":${dumps(device)},"name":"${name}","args":${dumps(args)},"ttl":${ttl}${latest}}`);
  }

  // Put a new event of `kind` into the log, under the device of the event at hand.
  emit(kind, data) {
    this.#kept("emit events");
    named(kind, "a kind of event");
    this.#effect(`{"type":"emit","kind":"${kind}","data":${dumps(data)}}`);
  }

  // Have an event of `kind` come later: `after` is in seconds or text such as "5m", at most a year. With a `key` it takes
  // the place of the pending one of this function, device and key.
  defer(kind, data = null, { after, key = "" } = {}) {
    this.#kept("defer events");
    named(kind, "a kind of event");
    const wait = microseconds(after, "after", "a year");
    if (key) named(key, "a deferred event's key");
    this.#effect(`{"type":"defer","kind":"${kind}","data":${dumps(data)},"after":${wait}${key ? `,"key":"${key}"` : ""}}`);
  }

  // Take back the event that this function has deferred for this device under `key`, if there is one.
  cancel(key) {
    this.#kept("cancel deferred events");
    named(key, "a deferred event's key");
    this.#effect(`{"type":"cancel","key":"${key}"}`);
  }

  // Write to the app's log.
  log(text, level = "info") {
    if (!LEVELS.includes(level)) throw new TypeError(`'${String(level)}' is not one of ${LEVELS.join(", ")}`);
    for (const line of String(text).split("\n")) this.#line(line, level);
  }

  // What the call has changed in its state, and the state then.
  static changes(ctx) {
    const [found, after] = ctx.#state ? State.changes(ctx.#state) : [{}, {}];
    let size = 0;
    for (const [name, [text]] of Object.entries(after)) size += name.length + text.length;
    if (Object.keys(found).length && size > ctx.#terms.limits.state) {
      ctx.#report.exceeded ||= `more than ${Math.floor(ctx.#terms.limits.state / 1024)} KiB of state`;
    }
    return [found, after];
  }

  // Count what a route returned.
  static returned(ctx, size) {
    ctx.#take(size, "returned value");
  }

  #require(kind, what) {
    const allowed = this.#terms.grants.some((grant) => {
      const [head, ...rest] = grant.split(":");
      const pattern = rest.join(":");
      return head === kind && (pattern.endsWith("*") ? what.startsWith(pattern.slice(0, -1)) : what === pattern);
    });
    if (allowed) return;
    const grant = what ? `${kind}:${what}` : kind;
    if (this.#report.refused.length < MAX_REFUSED) this.#report.refused.push(grant.slice(0, 200).replace(/[^!-~]/g, "?"));
    const own = `only the device that caused the event ('${this.#event.device}') can be commanded, not '${what}'`;
    throw new NotGranted(`${kind === "command" ? own : `this app was not granted '${grant}'`}; ask for it with new App(..., { grants: ["${grant}"] })`);
  }

  #kept(what) {
    if (!this.#stored) throw new NotGranted(`a route cannot ${what}: do it in an app.on function, which may emit what is to be sent`);
    return this.#stored;
  }

  #take(size, what) {
    this.#room -= size;
    if (this.#room < 0) this.#exceed(`more than ${Math.floor(this.#terms.limits.output / 1024)} KiB of output in one call (${what})`);
  }

  #line(text, level) {
    const { logs } = this.#report;
    if (logs.length >= this.#terms.limits.lines) this.#exceed(`more than ${this.#terms.limits.lines} log lines in one call`);
    const entry = `{"level":"${level}","text":${JSON.stringify(text.slice(0, Math.max(0, this.#room)))}}`;
    this.#take(entry.length, "logs");
    logs.push(entry);
  }

  #effect(effect) {
    const { effects } = this.#report;
    if (effects.length >= this.#terms.limits.effects) this.#exceed(`more than ${this.#terms.limits.effects} commands and emitted events in one call`);
    this.#take(effect.length, "effects");
    effects.push(effect);
  }

  #exceed(why) {
    this.#report.exceeded ||= why;
    throw new OutputLimit(why);
  }
}

function named(name, what) {
  if (typeof name !== "string" || !NAME.test(name)) {
    throw new TypeError(`'${String(name)}' is not ${what}: 1 to 64 letters, digits, '_', '.' or '-'`);
  }
}
