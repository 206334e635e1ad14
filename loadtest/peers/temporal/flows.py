"""Workflows of no-ops. Activities are dispatched by the server; local activities run in the worker that has the workflow."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow

QUEUE = "peers"
WITHIN = timedelta(seconds=60)


@activity.defn
async def noop(number: int) -> int:
    return number


@workflow.defn(sandboxed=False)
class Chain:
    @workflow.run
    async def run(self, steps: int) -> int:
        for number in range(steps):
            await workflow.execute_activity(noop, number, start_to_close_timeout=WITHIN)
        return steps


@workflow.defn(sandboxed=False)
class LocalChain:
    @workflow.run
    async def run(self, steps: int) -> int:
        for number in range(steps):
            await workflow.execute_local_activity(noop, number, start_to_close_timeout=WITHIN)
        return steps


@workflow.defn(sandboxed=False)
class FanOut:
    @workflow.run
    async def run(self, items: int) -> int:
        steps = (workflow.execute_activity(noop, number, start_to_close_timeout=WITHIN) for number in range(items))
        return len(await asyncio.gather(*steps))


@workflow.defn(sandboxed=False)
class LocalFanOut:
    @workflow.run
    async def run(self, items: int) -> int:
        steps = (workflow.execute_local_activity(noop, number, start_to_close_timeout=WITHIN) for number in range(items))
        return len(await asyncio.gather(*steps))
