// Plain values: what can leave a function. The same rules hold on the wire to the boards.

export const MAX_DEPTH = 16;

const UNITS = { us: 1, ms: 1000, s: 1_000_000, m: 60_000_000, h: 3_600_000_000, d: 86_400_000_000 };
const LONGEST = { "30 seconds": 30 * UNITS.s, "7 days": 7 * UNITS.d, "a year": 366 * UNITS.d, "ten years": 3653 * UNITS.d };

function check(value, depth) {
  if (value === null || typeof value === "string" || typeof value === "boolean") return;
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new RangeError(`${value} cannot leave a function; send null`);
    if (Number.isInteger(value) && Math.abs(value) >= 2 ** 63) throw new RangeError(`the integer ${value} does not fit 64 bits`);
    return;
  }
  if (typeof value !== "object") throw new TypeError(`a value of type ${typeof value} is not plain (object, array, string, number, boolean or null)`);
  if (depth >= MAX_DEPTH) throw new RangeError(`values are nested deeper than ${MAX_DEPTH} levels`);
  if (Array.isArray(value)) {
    for (const item of value) check(item, depth + 1);
    return;
  }
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    const name = prototype.constructor?.name ?? "unknown";
    throw new TypeError(`a value of class ${name} is not plain (object, array, string, number, boolean or null)`);
  }
  for (const key of Object.keys(value)) {
    if (value[key] !== undefined) check(value[key], depth + 1); // left out, as JSON.stringify does
  }
}

// The value as JSON; throws where it is not plain.
export function dumps(value) {
  if (value === undefined) return "null";
  check(value, 0);
  return JSON.stringify(value);
}

// A length of time in seconds, or as text such as "90s" or "5m", in microseconds.
export function microseconds(length, name, longest) {
  let value;
  if (typeof length === "string") {
    const match = /^(\d+(?:\.\d+)?)(us|ms|s|m|h|d)$/.exec(length.trim());
    if (!match) throw new TypeError(`${name}: '${length}' is not a time such as '60s', '5m' or '2h'`);
    value = Math.trunc(Number(match[1]) * UNITS[match[2]]);
  } else if (typeof length === "number") {
    value = Math.trunc(length * 1_000_000);
  } else {
    throw new TypeError(`${name}: ${String(length)} is neither seconds nor text such as '60s'`);
  }
  if (!(value > 0 && value <= LONGEST[longest])) throw new RangeError(`${name}: '${length}' is not between 0 and ${longest}`);
  return value;
}
