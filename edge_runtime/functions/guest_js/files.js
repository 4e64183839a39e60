// The files in the app's folder that are not JavaScript, for reading.

// Bytes of base64 text.
export function decoded(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// `ctx.files`: the app's own files, by their path in its folder; new App("x", { grants: ["files"] }).
export class Files {
  #contents;

  constructor(contents) {
    this.#contents = contents;
  }

  bytes(path) {
    if (!this.has(path)) throw new Error(`the app has no file '${String(path)}'`);
    return decoded(this.#contents[path]);
  }

  text(path) {
    return new TextDecoder().decode(this.bytes(path));
  }

  json(path) {
    return JSON.parse(this.text(path));
  }

  has(path) {
    return Object.hasOwn(this.#contents, path);
  }

  keys() {
    return Object.keys(this.#contents);
  }
}
