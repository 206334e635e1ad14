"""A worker. Takes the address of the server."""

import asyncio
import sys

import uvloop
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from flows import QUEUE, Chain, FanOut, LocalChain, LocalFanOut, noop

POLLERS = PollerBehaviorSimpleMaximum(16)


async def main():
    client = await Client.connect(sys.argv[1])
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Chain, LocalChain, FanOut, LocalFanOut],
        activities=[noop],
        max_cached_workflows=5000,
        max_concurrent_workflow_tasks=200,
        max_concurrent_activities=400,
        max_concurrent_local_activities=400,
        workflow_task_poller_behavior=POLLERS,
        activity_task_poller_behavior=POLLERS,
    )
    print("the worker works", flush=True)
    await worker.run()


uvloop.install()
asyncio.run(main())
