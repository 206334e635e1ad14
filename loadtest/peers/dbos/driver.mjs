// DBOS is a library: flows run in this process, and so do their steps. DATABASE: its Postgres.
import { DBOS } from "@dbos-inc/dbos-sdk";
import { check, closedLoop, oneByOne, serve } from "./asked.mjs";

const CONNECTIONS = 20;

const noop = async () => null;

const chain = DBOS.registerWorkflow(
  async (steps) => {
    for (let i = 0; i < steps; i++) await DBOS.runStep(noop, { name: `step${i}` });
    return steps;
  },
  { name: "chain" },
);

const fanOut = DBOS.registerWorkflow(
  async (items) => {
    const steps = Array.from({ length: items }, (_, i) => DBOS.runStep(noop, { name: `step${i}` }));
    return (await Promise.all(steps)).length;
  },
  { name: "fanOut" },
);

DBOS.setConfig({
  name: "peers",
  systemDatabaseUrl: process.env.DATABASE,
  systemDatabasePoolSize: CONNECTIONS,
  logLevel: "error",
  runAdminServer: false,
  applicationVersion: "1",
  executorID: "driver",
});
await DBOS.launch();

const run = async (steps) => check(await chain(steps), steps);

await serve({
  latency: (asked) => oneByOne(() => run(asked.steps), asked),
  throughput: (asked) => closedLoop(() => run(asked.steps), asked),
  fanOut: (asked) => oneByOne(async () => check(await fanOut(asked.items), asked.items), asked),
});
