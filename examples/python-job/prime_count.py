"""A long job in Python, with nothing but its standard library: counts the primes up to a limit, chunk by chunk. After each chunk
it saves how far it is, so that it can be killed at any moment: whoever runs the task next, on whatever machine, goes on from there.
"""

import json
import math
import sys
import time


def send(**message):
    print(json.dumps(message), flush=True)


def primes_in(start, end):
    """How many primes there are from `start` to `end`, the end left out: the sieve of Eratosthenes, on a part of the numbers."""
    is_prime = bytearray([1]) * (end - start)
    for number in range(start, min(end, 2)):
        is_prime[number - start] = 0
    for divisor in range(2, math.isqrt(end) + 1):
        first = max(divisor * divisor, (start + divisor - 1) // divisor * divisor)
        for multiple in range(first, end, divisor):
            is_prime[multiple - start] = 0
    return sum(is_prime)


def count_primes(task, params):
    wanted = params["input"]
    limit, chunk = wanted["limit"], wanted.get("chunk") or 100_000
    # What an earlier attempt of this task saved; the same limit and chunk belong to the same task.
    checkpoint = params.get("checkpoint")
    state = checkpoint["data"] if checkpoint else {"next": 0, "primes": 0, "chunks": []}
    if checkpoint:
        send(type="log", id=task, level="info", message=f"going on at {state['next']}")
    while state["next"] <= limit:
        end = min(state["next"] + chunk, limit + 1)
        state["primes"] += primes_in(state["next"], end)
        state["next"] = end
        # Which attempt did which chunk: for the curious.
        state["chunks"].append(params["attempt"])
        time.sleep((wanted.get("pauseMs") or 0) / 1000)
        send(type="checkpoint", id=task, data=state)
        send(type="progress", id=task, percent=100 * end / (limit + 1), message=f"{state['primes']} primes below {end}")
    send(type="result", id=task, outcome="success",
         output={"primes": state["primes"], "chunks": len(state["chunks"]), "attempts": sorted(set(state["chunks"]))})


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("type") == "execute":
            count_primes(message["id"], message["params"])


main()
