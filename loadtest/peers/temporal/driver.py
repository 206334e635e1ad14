"""As asked.mjs: asked by lines of JSON, answers by lines of JSON. Takes the address of the server, and `local` or not."""

import asyncio
import itertools
import json
import os
import sys
import threading
import time
import uuid

import uvloop
from temporalio.client import Client

from flows import QUEUE, Chain, FanOut, LocalChain, LocalFanOut

LOCAL = "local" in sys.argv[2:]
RUN = uuid.uuid4().hex
NUMBERS = itertools.count()


def say(figures):
    print(json.dumps(figures), flush=True)


def percentiles(millis):
    millis = sorted(millis)
    last = len(millis) - 1
    at = lambda part: millis[min(last, int(len(millis) * part))]
    return {"count": len(millis), "p50": at(0.5), "p99": at(0.99), "max": at(1)}


async def one_by_one(run, asked):
    """Runs one after the other: as many as count, or as fit into the time; before them, some that do not count."""

    async def up_to(count):
        ends = time.perf_counter() + asked["seconds"]
        millis = []
        while len(millis) < count and time.perf_counter() < ends:
            began = time.perf_counter()
            await run()
            millis.append((time.perf_counter() - began) * 1000)
        return millis

    await up_to(asked["warmUp"])
    return percentiles(await up_to(asked["executions"]))


async def closed_loop(run, asked):
    """Clients that each run one and then the next; those that end within the window count."""
    opens = time.perf_counter() + asked["warmUpSeconds"]
    closes = opens + asked["seconds"]
    executions = 0

    async def client():
        nonlocal executions
        while time.perf_counter() < closes:
            await run()
            executions += opens <= time.perf_counter() < closes

    async def window():
        await asyncio.sleep(opens - time.perf_counter())
        say({"window": "opens"})
        await asyncio.sleep(closes - time.perf_counter())
        say({"window": "closes"})

    await asyncio.gather(window(), *(client() for _ in range(asked["clients"])))
    return {"executions": executions, "executionsPerSecond": executions / asked["seconds"]}


async def main():
    client = await Client.connect(sys.argv[1])
    loop = asyncio.get_running_loop()
    lines = asyncio.Queue()

    def listen():
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, json.loads(line))
        # Whoever asked is gone.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    async def run(flow, number):
        result = await client.execute_workflow(flow.run, number, id=f"{RUN}-{next(NUMBERS)}", task_queue=QUEUE)
        assert result == number, f"a result of {result} instead of {number}"

    chain, fan_out = (LocalChain, LocalFanOut) if LOCAL else (Chain, FanOut)
    scenarios = {
        "latency": lambda asked: one_by_one(lambda: run(chain, asked["steps"]), asked),
        "throughput": lambda asked: closed_loop(lambda: run(chain, asked["steps"]), asked),
        "fanOut": lambda asked: one_by_one(lambda: run(fan_out, asked["items"]), asked),
    }
    say({"ready": True})
    while True:
        asked = await lines.get()
        say(await scenarios[asked["scenario"]](asked))


uvloop.install()
asyncio.run(main())
