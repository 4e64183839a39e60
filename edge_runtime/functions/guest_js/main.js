// The component's entry: the functions that the host calls. Everything here is part of the snapshot that every instance
// starts from.

import { done } from "edge:guest/host";
import { App, AppError, Context, NotGranted, made } from "./edge.js";
import { HttpError } from "./http.js";
import { LoadError, frames, message, runModules } from "./modules.js";
import { dumps } from "./plain.js";
import { Reply, described } from "./reply.js";

const EVENT = ["device", "kind", "time", "data", "id", "seq", "boot", "received", "late"];
const LIMITS = { output: 256 * 1024, lines: 100, effects: 100, state: 64 * 1024 };
const BUILTINS = { edge: { App, AppError, HttpError, NotGranted, Reply } };

const { stringify, parse } = JSON;
let app;
let terms = { limits: LIMITS, grants: [], files: {} };
let current = null; // the context of the call at hand

function shown(value) {
  if (typeof value === "string") return value;
  if (value instanceof Error) return message(value);
  try {
    return typeof value === "object" && value !== null ? stringify(value) : String(value);
  } catch {
    return String(value);
  }
}

function printer(level) {
  return (...values) => current?.log(values.map(shown).join(" "), level);
}

globalThis.console = {
  log: printer("info"),
  info: printer("info"),
  debug: printer("debug"),
  trace: printer("debug"),
  warn: printer("warning"),
  error: printer("error"),
};

for (const name of ["setTimeout", "setInterval"]) {
  globalThis[name] = () => {
    throw new Error("a function cannot wait: answer the event and return");
  };
}
globalThis.fetch = () => {
  throw new NotGranted("functions have no network");
};

// Math.random as sfc32: the engine's own would be part of the snapshot, the same in every instance.
function seeded(seed) {
  let [a, b, c] = [Number(seed & 0xffffffffn) | 0, Number(seed >> 32n) | 0, 0x2545f491];
  let counter = 1;
  const next = () => {
    const t = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t | 0;
    return (t >>> 0) / 4294967296;
  };
  for (let i = 0; i < 12; i++) next();
  return next;
}

export function load(request, seed) {
  const { files, entry, limits, grants = [], data = {} } = parse(request);
  Math.random = seeded(seed);
  terms = { limits: { ...LIMITS, ...limits }, grants, files: data };
  made.length = 0;
  try {
    runModules(files, entry, BUILTINS);
    app = onlyApp(entry);
    return stringify(app.manifest());
  } catch (error) {
    throw stringify({ file: error.file ?? entry, line: error.line ?? 0, reason: error instanceof LoadError ? error.message : message(error) });
  }
}

function onlyApp(entry) {
  if (made.length === 0) throw new LoadError(entry, 0, 'no App found; add: import { App } from "edge"; const app = new App("name");');
  if (made.length > 1) throw new LoadError(entry, 0, `${made.length} apps in one file (${made.map(({ name }) => `'${name}'`).join(", ")}); one file holds one app`);
  if (made[0].triggers.size === 0) throw new LoadError(entry, 0, `the app '${made[0].name}' has no functions; add app.on(...) or app.route(...)`);
  return made[0];
}

export function run(name, events, text) {
  const given = text ? parse(text) : {};
  given.states ??= {};
  for (const fields of parse(events)) {
    const event = {};
    EVENT.forEach((field, index) => (event[field] = fields[index]));
    if (!done(call(name, event, given))) return;
  }
}

function call(name, event, given) {
  const report = { effects: [], logs: [], metrics: [], refused: [], exceeded: "", unanswered: "" };
  const trigger = app.triggers.get(name);
  if (!trigger) return failed("error", `the app has no function '${name}'`, report);
  const { states } = given;
  const key = trigger.serial ? "" : event.device;
  const stored = trigger.type === "route" ? null : Object.hasOwn(states, key) ? states[key] : {};
  const ctx = new Context(event, terms, given, stored, report);
  current = ctx;
  let value = "null";
  let changed;
  let after;
  try {
    const returned = trigger.run(event, ctx);
    if (typeof returned?.then === "function") throw new TypeError(`'${name}' returned a promise; a function answers at once`);
    if (trigger.type === "http" || (trigger.type === "route" && returned !== null && returned !== undefined)) {
      value = trigger.type === "http" ? described(returned) : dumps(returned);
      Context.returned(ctx, value.length);
    }
    [changed, after] = Context.changes(ctx);
    if (report.exceeded) return failed("output", report.exceeded, report);
    if (report.unanswered) return `{"type":"unanswered","request":${report.unanswered}}`;
  } catch (error) {
    try {
      if (report.exceeded) return failed("output", report.exceeded, report);
      if (report.unanswered) return `{"type":"unanswered","request":${report.unanswered}}`;
      if (error === "out of memory") return failed("memory", "the memory limit was reached", report); // so the engine says it
      return failed("error", located(error), report);
    } catch {
      return '{"type":"failed","reason":"error","detail":"the function threw an error that cannot be described"}';
    }
  } finally {
    current = null;
  }
  let more = "";
  if (Object.keys(changed).length) {
    states[key] = after;
    more = `"state":${stringify(changed)},`;
  }
  if (report.metrics.length) more += `"metrics":${stringify(report.metrics)},`;
  if (report.refused.length) more += `"refused":${stringify(report.refused)},`;
  return `{"type":"ok",${more}"effects":[${report.effects.join(",")}],"logs":[${report.logs.join(",")}],"value":${value}}`;
}

function failed(reason, detail, { logs, refused }) {
  const more = refused.length ? `,"refused":${stringify(refused)}` : "";
  return `{"type":"failed","reason":"${reason}","detail":${stringify(detail.slice(0, 2000))},"logs":[${logs.join(",")}]${more}}`;
}

// The message with the user's own frames, the innermost first.
function located(error) {
  const found = frames(error);
  const some = found.length > 6 ? [...found.slice(0, 3), ...found.slice(-3)] : found;
  return [message(error), ...some.map(([file, line, name]) => `${file}, line ${line}, in ${name}`)].join(" <- ");
}

// Touch everything a call touches, so that the snapshot holds it warm, and forget the app again.
function rehearse() {
  const source =
    'import { App } from "edge";\nconst app = new App("rehearsal");\n' +
    'app.on("a", { where: "b > 1" }, function f(event, ctx) { ctx.command(event.device, "c", { on: true }); ' +
    'ctx.emit("b", { ...event.data }); ctx.state.set("n", (ctx.state.get("n") ?? 0) + 1); console.log(event.id); });\n' +
    'app.on("a", function g() { throw new Error("x"); });\nexport default app;\n';
  load(stringify({ files: { "rehearsal.js": source }, entry: "rehearsal.js", limits: {} }), 1n);
  const event = { device: "d", kind: "a", time: 0, data: { b: 1.5 }, id: "d/0/0", seq: 0, boot: "", received: 0, late: false };
  for (const name of ["f", "g"]) call(name, event, { states: { d: { n: ["1", 0] } } });
  app = undefined;
  made.length = 0;
}

rehearse();
