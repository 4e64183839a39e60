// Runs the files of an app as modules. The engine has no module loader at run time, so imports and exports become
// statements of a function; lines stay where they are.

import { parse } from "./node_modules/es-module-lexer/dist/lexer.asm.js";

const APP = "app/"; // before the files' names in stacks: the guest's own files have other names

// An app could not be loaded. `line` is 0 where no line is to blame.
export class LoadError extends Error {
  constructor(file, line, reason) {
    super(reason);
    this.file = file;
    this.line = line;
  }
}

const evaluate = globalThis.eval; // called by this name it is indirect: the code sees globals only

// The frames of a stack that lie in the app's own files, the innermost first: [file, line, function].
export function frames(error) {
  const found = [];
  for (const line of String(error?.stack ?? "").split("\n")) {
    const match = /^(.*)@app\/(.+?):(\d+):\d+$/.exec(line);
    if (match) found.push([match[2], Number(match[3]), match[1].split("/").pop().replace(/^\[.*|.*<$/, "") || "a function"]);
  }
  return found;
}

// An error in a line.
export function message(error) {
  if (error?.name === "AppError") return String(error.message).slice(0, 2000);
  if (error instanceof Error || typeof error?.message === "string") {
    return `${error.name}: ${error.message}`.slice(0, 2000);
  }
  return `thrown: ${String(error)}`.slice(0, 2000);
}

// Run the entry and what it imports. `builtins`: name -> exports.
export function runModules(files, entry, builtins) {
  const done = new Map(Object.entries(builtins));
  const begun = new Set();

  function run(path) {
    if (done.has(path)) return done.get(path);
    if (begun.has(path)) throw new LoadError(path, 0, "it imports itself by way of others; modules may not go in circles");
    begun.add(path);
    const exports = Object.create(null);
    compiled(path, files[path])((wanted, names) => bind(path, wanted, names), exports);
    done.set(path, exports);
    return exports;
  }

  function bind(from, wanted, names) {
    const path = Object.hasOwn(builtins, wanted) ? wanted : resolve(from, wanted);
    if (!done.has(path) && !Object.hasOwn(files, path)) {
      throw new Error(`there is no module '${wanted}': an app imports "edge" and its own files ("./file.js")`);
    }
    const exports = run(path);
    for (const name of names) {
      if (!(name in exports)) throw new Error(`'${wanted}' exports no '${name}'; it has ${Object.keys(exports).join(", ") || "nothing"}`);
    }
    return exports;
  }

  try {
    run(entry);
  } catch (error) {
    if (error instanceof LoadError) throw error;
    const [place] = frames(error);
    throw new LoadError(place ? place[0] : entry, place ? place[1] : 0, message(error));
  }
}

function resolve(from, wanted) {
  if (!wanted.startsWith("./") && !wanted.startsWith("../")) return wanted;
  const parts = from.split("/").slice(0, -1);
  for (const part of wanted.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== ".") parts.push(part);
  }
  return parts.join("/");
}

function compiled(path, source) {
  const wrapped = (code) => evaluate(`(function (__import, __exports) {"use strict"; ${code}\n})\n//# sourceURL=${APP}${path}`);
  let code;
  try {
    code = rewritten(path, source);
  } catch (error) {
    if (error instanceof LoadError) throw error;
    code = source; // the engine says better what is wrong
  }
  try {
    return wrapped(code);
  } catch (error) {
    throw new LoadError(path, Math.min(error.lineNumber ?? 0, source.split("\n").length), message(error));
  }
}

function rewritten(path, source) {
  const [imports, exports] = parse(source, path);
  const lineOf = (at) => source.slice(0, at).split("\n").length;
  const refuse = (at, why) => {
    throw new LoadError(path, lineOf(at), why);
  };
  const edits = [];
  for (const [number, { n: wanted, s: at, ss: start, se: end, d: kind }] of imports.entries()) {
    if (kind === -2) refuse(start, "there is no import.meta here");
    if (kind > -1) refuse(start, "there is no import() here; write import ... at the top");
    if (!source.startsWith("import", start)) refuse(start, "export ... from is not known here; import it first, then export it");
    const clause = source.slice(start + 6, at - 1).replace(/\/\*[^]*?\*\/|\/\/.*$/gm, "").trim().replace(/\bfrom$/, "");
    edits.push([start, end, imported(`__module${number}`, wanted, clause)]);
  }
  let last = "";
  const keywords = new Set();
  for (const { s: at, n: name, ln: local } of exports) {
    const keyword = [...source.slice(0, at).matchAll(/(?<![\w$.])export(?![\w$])/g)].pop()?.index;
    const rest = source.slice(keyword + 6);
    if (local) last += `__exports[${JSON.stringify(name)}] = ${local};`;
    if (keywords.has(keyword)) continue;
    keywords.add(keyword);
    if (/^\s*\{/.test(rest)) edits.push([keyword, source.indexOf("}", keyword) + 1, ";"]);
    else if (!local) edits.push([keyword, at + 7, "__exports.default ="]);
    else edits.push([keyword, name === "default" ? at + 7 : keyword + 6, ""]);
  }
  let code = "";
  let done = 0;
  for (const [start, end, text] of edits.sort((one, other) => one[0] - other[0])) {
    code += source.slice(done, start) + text + "\n".repeat(lineOf(end) - lineOf(start));
    done = end;
  }
  return `${code}${source.slice(done)}\n;${last}`;
}

// The statement that takes the place of an import.
function imported(variable, wanted, clause) {
  const names = [];
  let binds = "";
  const named = /\{([^]*)\}/.exec(clause);
  for (const part of named ? named[1].split(",") : []) {
    const [name, local = name] = part.trim().split(/\s+as\s+/);
    if (!name) continue;
    names.push(name);
    binds += `, ${local} = ${variable}[${JSON.stringify(name)}]`;
  }
  const whole = /\*\s*as\s+([\w$]+)/.exec(clause);
  if (whole) binds += `, ${whole[1]} = ${variable}`;
  const first = /^([\w$]+)\s*(?:,|$)/.exec(clause);
  if (first) {
    names.push("default");
    binds += `, ${first[1]} = ${variable}.default`;
  }
  return `const ${variable} = __import(${JSON.stringify(wanted)}, ${JSON.stringify(names)})${binds};`;
}
