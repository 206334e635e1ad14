// Flows of jobs: a job waits for its children, so a chain is a parent of a parent. REDIS_PORT: the queues.
import { FlowProducer, Queue, QueueEvents } from "bullmq";
import { check, closedLoop, oneByOne, serve } from "./asked.mjs";
import { connection, LAST, STEPS } from "./queues.mjs";

/** Jobs per round trip when many are enqueued at once. */
const BULK = 200;
/** Ends that are kept for who listens; more than are ever under way. */
const EVENTS = 100_000;

const last = new Queue(LAST, { connection, streams: { events: { maxLen: EVENTS } } });
const flows = new FlowProducer({ connection });
const events = new QueueEvents(LAST, { connection });
// Who waits, by the last job. An own map: `waitUntilFinished` asks Redis once more for each job.
const waiting = new Map();
let next = 0;

const settle = (id, how, value) => {
  const who = waiting.get(id);
  waiting.delete(id);
  who?.[how](value);
};
events.on("completed", ({ jobId, returnvalue }) => settle(jobId, "resolve", returnvalue));
events.on("failed", ({ jobId, failedReason }) => settle(jobId, "reject", new Error(failedReason)));

function job(queueName, name, result, children) {
  return { name, queueName, data: { result }, opts: { removeOnComplete: true }, children };
}

/** A job with the last id of all, and the promise of its result. */
function ended(root) {
  const jobId = `flow-${(next += 1)}`;
  root.opts.jobId = jobId;
  return new Promise((resolve, reject) => waiting.set(jobId, { resolve, reject }));
}

function chain(steps) {
  let below;
  for (let i = 1; i < steps; i++) below = [job(STEPS, "step", i, below)];
  return job(LAST, "step", steps, below);
}

async function run(root, expected) {
  const end = ended(root);
  if (root.children) await flows.add(root);
  else await last.add(root.name, root.data, root.opts);
  check(await end, expected);
}

/** All enqueued at once, many per round trip, and worked off meanwhile. */
async function bulk({ executions, steps }) {
  const began = performance.now();
  const ends = [];
  for (let first = 0; first < executions; first += BULK) {
    const roots = Array.from({ length: Math.min(BULK, executions - first) }, () => chain(steps));
    ends.push(...roots.map(ended));
    await flows.addBulk(roots);
  }
  for (const end of ends) check(await end, steps);
  return { executions, executionsPerSecond: (executions / (performance.now() - began)) * 1000 };
}

await Promise.all([last.waitUntilReady(), flows.waitUntilReady?.(), events.waitUntilReady()]);
await serve({
  latency: (asked) => oneByOne(() => run(chain(asked.steps), asked.steps), asked),
  throughput: (asked) => closedLoop(() => run(chain(asked.steps), asked.steps), asked),
  fanOut: (asked) => {
    const children = () => Array.from({ length: asked.items }, (_, i) => job(STEPS, "item", i));
    return oneByOne(() => run(job(LAST, "join", null, children()), asked.items), asked);
  },
  bulk,
});
