// node build.mjs WORLD TARGET: the component of main.js for the world in the file WORLD.
import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [world, target] = process.argv.slice(2);
const { component } = await componentize({
  sourcePath: "main.js",
  witPath: world,
  worldName: "guest",
  disableFeatures: ["stdio", "http", "fetch-event"],
});
await writeFile(target, component);
