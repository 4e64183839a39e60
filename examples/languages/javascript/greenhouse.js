// The fan of a hot board goes on; every tenth reading, the mean of the ten goes into the log as an event.
import { App } from "edge";

const app = new App("greenhouse_javascript");

app.on("climate", { where: "temperature > 30" }, function overheat(event, ctx) {
  ctx.command(event.device, "fan", { on: true });
});

app.on("climate", function average(event, ctx) {
  const count = (ctx.state.get("count") ?? 0) + 1;
  const sum = (ctx.state.get("sum") ?? 0) + event.data.temperature;
  if (count === 10) ctx.emit("climate.mean", { temperature: sum / count });
  ctx.state.set("count", count % 10);
  ctx.state.set("sum", count === 10 ? 0 : sum);
});

app.route("climate.mean", { to: "cloud" }, function shape(event) {
  return event.data;
});

export default app;
