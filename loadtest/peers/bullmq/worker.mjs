// A worker of both queues, whose jobs do nothing. The last job of a fan-out reads the results of the others.
import { Worker } from "bullmq";
import { connection, LAST, STEPS } from "./queues.mjs";

const CONCURRENCY = 100;

const last = async (job) => {
  if (job.name !== "join") return job.data.result;
  const results = await job.getChildrenValues();
  return Object.keys(results).length;
};
const options = { connection, concurrency: CONCURRENCY };
const workers = [new Worker(STEPS, async (job) => job.data.result, options), new Worker(LAST, last, options)];
await Promise.all(workers.map((worker) => worker.waitUntilReady()));
console.log("the worker works");
