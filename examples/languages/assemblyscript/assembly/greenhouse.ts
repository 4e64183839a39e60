// The fan of a hot board goes on; every tenth reading, the mean of the ten goes into the log as an event.
import * as edge from "./edge";

edge.app("greenhouse_assemblyscript");
edge.on("overheat", "climate", "temperature > 30");
edge.on("average", "climate");
edge.route("shape", "climate.mean", "cloud");

export function overheat(): void {
  edge.command("fan", '{"on":true}');
}

export function average(): void {
  let count = edge.number("state.count") + 1;
  let sum = edge.number("state.sum") + edge.number("data.temperature");
  if (count == 10) {
    edge.emit("climate.mean", `{"temperature":${sum / count}}`);
    count = sum = 0;
  }
  edge.keepNumber("count", count);
  edge.keepNumber("sum", sum);
}

export function shape(): void {
  const data = edge.text("data");
  if (data) edge.value(data);
}
