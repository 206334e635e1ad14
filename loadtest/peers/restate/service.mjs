// The handlers: flows whose steps run in the handler itself (`run`), and flows whose steps are calls of another service,
// each dispatched by the server (`call`). The same for a fan-out. PORT: where the server finds them.
import * as restate from "@restatedev/restate-sdk";

const noop = async () => null;

const step = restate.service({ name: "step", handlers: { noop: async (_context, input) => input } });

const flow = restate.service({
  name: "flow",
  handlers: {
    run: async (context, steps) => {
      for (let i = 0; i < steps; i++) await context.run(`step${i}`, noop);
      return steps;
    },
    call: async (context, steps) => {
      const client = context.serviceClient(step);
      for (let i = 0; i < steps; i++) await client.noop(i);
      return steps;
    },
    runAll: async (context, items) => {
      const steps = Array.from({ length: items }, (_, i) => context.run(`step${i}`, noop));
      return (await restate.RestatePromise.all(steps)).length;
    },
    callAll: async (context, items) => {
      const client = context.serviceClient(step);
      const steps = Array.from({ length: items }, (_, i) => client.noop(i));
      return (await restate.RestatePromise.all(steps)).length;
    },
  },
});

await restate.serve({ services: [step, flow], port: Number(process.env.PORT) });
console.log("the service listens");
