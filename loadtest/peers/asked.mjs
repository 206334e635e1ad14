// What the drivers in JavaScript have in common. A driver is asked by lines of JSON on its input, one after the other, as
//   {"scenario":"latency","steps":1,"executions":500,"warmUp":200,"seconds":5}
// and answers each by a line of JSON on its output. It ends with its input.
import { createInterface } from "node:readline";

const say = (figures) => console.log(JSON.stringify(figures));
const sleepUntil = (instant) => new Promise((done) => setTimeout(done, instant - performance.now()));

/** Answers what is asked; each of `scenarios` takes the fields of its line. */
export async function serve(scenarios) {
  const lines = createInterface({ input: process.stdin });
  const asked = [];
  let wake = () => {};
  lines.on("line", (line) => {
    asked.push(JSON.parse(line));
    wake();
  });
  // Whoever asked is gone: so is what it started.
  lines.on("close", () => process.exit(0));
  say({ ready: true });
  for (;;) {
    while (asked.length === 0) await new Promise((done) => (wake = done));
    const { scenario, ...fields } = asked.shift();
    say(await scenarios[scenario](fields));
  }
}

/** Fails the driver when a result is another one. */
export function check(result, expected) {
  if (result !== expected) throw new Error(`a result of ${JSON.stringify(result)} instead of ${expected}`);
}

function percentiles(millis) {
  millis.sort((a, b) => a - b);
  const at = (part) => millis[Math.min(millis.length - 1, Math.floor(millis.length * part))];
  return { count: millis.length, p50: at(0.5), p99: at(0.99), max: at(1) };
}

/** Runs one after the other: `executions` that count, or as many as fit into `seconds`; before them, `warmUp` at most. */
export async function oneByOne(run, { executions, warmUp, seconds }) {
  const upTo = async (count) => {
    const ends = performance.now() + seconds * 1000;
    const millis = [];
    while (millis.length < count && performance.now() < ends) {
      const began = performance.now();
      await run();
      millis.push(performance.now() - began);
    }
    return millis;
  };
  await upTo(warmUp);
  return percentiles(await upTo(executions));
}

/** `clients` that each run one and then the next; those that end within `seconds` count. */
export async function closedLoop(run, { clients, warmUpSeconds, seconds }) {
  const opens = performance.now() + warmUpSeconds * 1000;
  const closes = opens + seconds * 1000;
  let executions = 0;
  const client = async () => {
    while (performance.now() < closes) {
      await run();
      const now = performance.now();
      if (now >= opens && now < closes) executions += 1;
    }
  };
  const all = Promise.all(Array.from({ length: clients }, client));
  // Processor time is read when these are heard.
  const window = async () => {
    await sleepUntil(opens);
    say({ window: "opens" });
    await sleepUntil(closes);
    say({ window: "closes" });
  };
  await Promise.all([all, window()]);
  return { executions, executionsPerSecond: executions / seconds };
}
