// The queues. Jobs of all steps but the last are on `steps`; the last one's results tell that a flow has ended.
export const STEPS = "steps";
export const LAST = "last";
export const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT) };
