#!/usr/bin/env python3
"""A FlowMonkey worker in Python, written from docs/protocol.md alone: a pattern for workers in other languages.

    /usr/bin/python3 worker.py redis://127.0.0.1:6379

runs tasks of the handler `greet`. For handlers of your own: `Worker(url, {"type": function}).run()`. A function gets the
`Task`, returns its output, raises `Failure`, and calls `task.pause(0)` now and then when it takes long. Needs redis, msgpack
and zstandard (Debian: python3-redis, python3-msgpack, python3-zstandard).
"""
import datetime
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import wire

VERSION = "1.0.0"  # Of the handlers.
CALL_BYTES_MAX = 32 * 1024 * 1024
ANNOUNCE_EVERY, LOOK_EVERY, BELL_WAIT, TRY_AGAIN, FLUSH = 10, 1, 1, 0.2, 10  # Seconds.
KEYS = ["tasks:{%s}:high", "tasks:{%s}", "tasks:{%s}:low"] + [kind + ":{%s}" for kind in (
    "payload terms latest leases owners results outcomes cancel generation bell workers unreadable gone").split()]
WORDS = [None, "drain", "cancel", "lost"]  # What a task may be told; the later ones override the earlier.


class Failure(Exception):
    """The attempt has failed. `code` is what a step's `retryOn` names."""
    def __init__(self, code, message, retryable=True):
        super().__init__(message)
        self.error = {"code": code, "message": message, "retryable": retryable}


class Stopped(Exception):
    """The handler is to end."""


class Task:
    """A delivery in this worker's hands. All times are of the monotonic clock."""
    def __init__(self, message, generation, claimed_at):
        self.message, self.generation, self.pool = message, generation, message["pool"]
        self.id = f'{message["taskId"]}:{message["attempt"]}'
        self.ends_at = claimed_at + message["remainingMs"] / 1000
        self.begun, self.told, self.bell = False, None, threading.Event()
        self.confirm(claimed_at)

    def confirm(self, sent_at):
        """The lease was there at `sent_at` or later. This worker stops before it can have ended."""
        lease = self.message["leaseMs"] / 1000
        self.fence_at = sent_at + lease - min(lease / 6, 5)

    def tell(self, word):
        if WORDS.index(word) > WORDS.index(self.told):
            self.told = word
            self.bell.set()

    def is_lost(self):
        """Whether another worker may run it by now."""
        return self.told == "lost" or time.monotonic() >= self.fence_at

    def has_ended(self):
        """Whether its time is up."""
        return time.monotonic() >= self.ends_at

    def pause(self, seconds):
        """Sleeps. Raises `Stopped` when the handler is to end."""
        end = time.monotonic() + seconds
        while not (self.told or self.is_lost() or self.has_ended()):
            left = min(end, self.fence_at, self.ends_at) - time.monotonic()
            if left <= 0 and time.monotonic() >= end:
                return
            self.bell.wait(max(0, left))
        raise Stopped()


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def warn(text):
    print(text, file=sys.stderr, flush=True)


class Worker:
    """Runs handlers: a dictionary of functions by handler type. `slots`: tasks at a time. `prefetch`: tasks claimed beyond
    that, whose time runs already. `grace`: seconds that handlers have at the end. `prefix`: of the pools."""
    def __init__(self, url, handlers, slots=4, prefetch=0, grace=20, prefix=""):
        # No client may repeat a claim by itself: what the first one took would be in nobody's hands.
        connect = lambda timeout: redis.Redis.from_url(url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))
        self.calls, self.heartbeats = connect(10), connect(2)
        self.handlers, self.room, self.grace = handlers, slots + prefetch, grace
        self.pools = {prefix + handler: handler for handler in handlers}
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"  # Never the same again.
        self.presence = {"worker": self.name, "pools": list(self.pools), "slots": slots, "version": VERSION,
                         "startedAt": now(), "manifests": [{"type": name, "version": VERSION} for name in handlers]}
        self.lock, self.tasks = threading.Lock(), {}  # In hand, until their results are accepted.
        # Held by a heartbeat and by giving back: a heartbeat from before would take back what was given.
        self.keeping = threading.Lock()
        self.claims, self.in_doubt, self.draining, self.ended = 0, set(), False, False
        self.give_up_at = float("inf")
        self.freed, self.news = threading.Event(), threading.Event()
        self.threads = ThreadPoolExecutor(max_workers=slots)

    def key(self, kind, pool):
        return f"flowmonkey:{kind}:{{{pool}}}"

    def call(self, client, function, pool, *arguments):
        keys = ["flowmonkey:" + key % pool for key in KEYS]
        if function not in ("extend", "announce"):
            keys.append(f'{self.key("processing", pool)}:{self.name}')
        return client.execute_command("FCALL", "flowmonkey_1_" + function, len(keys), *keys, *arguments)

    def in_hand(self, pool):
        with self.lock:
            return [task for task in self.tasks.values() if task.pool == pool]

    def run(self):
        """Works until SIGTERM or SIGINT. Then gives back what was not begun, and lets the rest end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "draining", True))
        keeper = threading.Thread(target=self.keep)
        keeper.start()
        pools = list(self.pools)
        while not self.draining:
            try:
                if sum([self.claim(pool) for pool in pools]) == 0:
                    self.wait(pools)
            except redis.RedisError as error:
                warn(f"claiming failed, trying again: {error}")
                time.sleep(TRY_AGAIN)
            pools.append(pools.pop(0))  # Another one is first, so that no pool takes all slots for ever.
        self.drain()
        self.ended = True
        self.news.set()
        keeper.join()

    def claim(self, pool):
        """Claims for the free slots; how many were found."""
        room = self.room - len(self.tasks)
        if room <= 0 or self.draining:
            return 0
        if pool in self.in_doubt:  # The last claim may have taken what this worker has not heard of.
            self.call(self.calls, "release_others", pool, self.name, *[task.id for task in self.in_hand(pool)])
            self.in_doubt.discard(pool)
        self.claims += 1
        low_first = 1 if self.claims % 10 == 0 else 0
        claimed_at = time.monotonic()  # Before the call, so that this worker's time is up before the queue's.
        try:
            generation, _, found = self.call(self.calls, "claim", pool, self.name, room, low_first, CALL_BYTES_MAX)
        except redis.RedisError:
            self.in_doubt.add(pool)
            raise
        for id, body in zip(found[::2], found[1::2]):
            try:
                task = Task(wire.decode(body), generation, claimed_at)
                if (task.id, task.pool) != (id.decode(), pool):
                    raise wire.Unreadable("the message is of another delivery")
            except (wire.Unreadable, KeyError) as error:
                number, attempt = id.decode().rsplit(":", 1)
                self.finish(pool, id, wire.encode({
                    "v": 1, "taskId": number, "attempt": int(attempt), "executionId": "", "stepId": "",
                    "outcome": "failure", "error": Failure("TASK_UNREADABLE", str(error)).error}))
                continue
            with self.lock:
                self.tasks[task.id] = task
            self.threads.submit(self.execute, task)
        self.news.set()
        return len(found) // 2

    def wait(self, pools):
        """Until there may be a task for a free slot."""
        if len(self.tasks) < self.room:
            self.calls.blpop([self.key("bell", pool) for pool in pools], timeout=BELL_WAIT)
        else:
            self.freed.wait(BELL_WAIT)
            self.freed.clear()

    def execute(self, task):
        with self.lock:
            if task.id not in self.tasks:
                return  # Given back.
            task.begun = True
        result, started = {"v": 1}, time.monotonic()
        result.update({field: task.message[field] for field in ("taskId", "attempt", "executionId", "stepId")})
        result["metrics"] = {"startedAt": now(), "workerId": self.name}
        try:
            task.pause(0)
            if task.message["handler"].get("version") not in (None, "*", VERSION):  # Others read requirements.
                raise Failure("HANDLER_VERSION_MISMATCH", f"this worker has version {VERSION}")
            output = self.handlers[self.pools[task.pool]](task)
            # A round trip, because only JSON may travel.
            result.update(outcome="success", output=json.loads(json.dumps(output, allow_nan=False)))
        except Stopped:
            if task.told == "cancel":
                result.update(outcome="failure", error=Failure("CANCELLED", "the task was cancelled", False).error)
            elif task.has_ended():
                result.update(outcome="failure", error=Failure("TIMEOUT", "the attempt ran out of time").error)
            else:
                result.update(outcome="released")
        except Failure as failure:
            result.update(outcome="failure", error=failure.error)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            result.update(outcome="failure", error=Failure("HANDLER_ERROR", text).error)
        result["metrics"].update(completedAt=now(), duration=int((time.monotonic() - started) * 1000))
        if not task.is_lost():
            self.finish(task.pool, task.id, self.seal(task, result))
        with self.lock:
            del self.tasks[task.id]
        self.freed.set()

    def seal(self, task, result):
        """The result as it travels, with its proof."""
        try:
            return wire.encode({**result, "mac": wire.mac(result, task.message["token"])})
        except (ValueError, OverflowError, RecursionError) as error:
            result.pop("output", None)
            result.update(outcome="failure", error=Failure("RESULT_UNWRITABLE", str(error), False).error)
            return wire.encode({**result, "mac": wire.mac(result, task.message["token"])})

    def finish(self, pool, id, body):
        """Hands in a result, again and again until Redis has it. The lease is kept meanwhile."""
        while time.monotonic() < self.give_up_at:
            try:
                if self.call(self.calls, "finish", pool, self.name, self.key("results-bell", pool), id, body):
                    warn(f"the result of {id} was refused: another worker owns the task")
                return
            except redis.RedisError as error:
                warn(f"the result of {id} was not accepted, trying again: {error}")
                time.sleep(TRY_AGAIN)

    def keep(self):
        """Announces the worker and keeps its leases, in a thread of its own."""
        announce_at, announced = 0, None
        while not self.ended:
            try:
                if time.monotonic() >= announce_at or announced != self.draining:
                    announced = self.draining
                    self.announce(announced)
                    announce_at = time.monotonic() + ANNOUNCE_EVERY
                for pool in self.pools:
                    with self.keeping:
                        self.extend(pool)
            except redis.RedisError as error:
                warn(f"leases were not extended, trying again: {error}")
            with self.lock:
                beats = [task.message["heartbeatIntervalMs"] / 1000 for task in self.tasks.values()]
            self.news.wait(max(0.01, min(beats + [LOOK_EVERY])))
            self.news.clear()
        try:
            for pool in self.pools:
                self.heartbeats.hdel(self.key("workers", pool), self.name)
        except redis.RedisError as error:
            warn(f"the worker's end could not be told, it will be seen as silent: {error}")

    def extend(self, pool):
        tasks = [task for task in self.in_hand(pool) if not task.is_lost()]
        if not tasks:
            return
        sent_at = time.monotonic()
        ids = [task.id for task in tasks]
        generation, lost, cancelled = self.call(self.heartbeats, "extend", pool, self.name, *ids)
        if generation in (b"", b"0") or any(task.generation != generation for task in tasks):
            # The queue was emptied: it may have forgotten the leases. What it calls lost proves nothing; put them back.
            sent_at, leases = time.monotonic(), []
            for task in tasks:
                leases += [task.id, task.message["leaseMs"], max(0, int((task.ends_at - sent_at) * 1000))]
            generation, lost, cancelled = self.call(self.heartbeats, "reassert", pool, self.name, *leases)
        for task in tasks:
            if task.id.encode() in lost:
                task.tell("lost")
                continue
            task.confirm(sent_at)
            task.generation = generation
            if task.id.encode() in cancelled:
                task.tell("cancel")

    def announce(self, draining):
        presence = json.dumps({**self.presence, "running": len(self.tasks), "draining": draining})
        for pool in self.pools:
            self.call(self.heartbeats, "announce", pool, self.name, presence, self.key("results-bell", pool))

    def give_back(self, pool):
        """Releases what has not begun."""
        with self.lock:
            untouched = [task.id for task in self.tasks.values() if task.pool == pool and not task.begun]
            for id in untouched:
                del self.tasks[id]
        try:
            if untouched:
                self.call(self.calls, "release", pool, self.name, *untouched)
        except redis.RedisError as error:
            warn(f"tasks were not given back, their leases will end: {error}")

    def drain(self):
        self.news.set()
        for pool in self.pools:
            with self.keeping:
                self.give_back(pool)
        grace_end = time.monotonic() + self.grace
        while self.tasks and time.monotonic() < grace_end:
            self.freed.wait(TRY_AGAIN)
            self.freed.clear()
        self.give_up_at = time.monotonic() + FLUSH
        for pool in self.pools:
            for task in self.in_hand(pool):
                task.tell("drain")
        self.threads.shutdown()


def greet(task):
    return f'Hello, {task.message["input"]["name"]}!'


if __name__ == "__main__":
    Worker(sys.argv[1], {"greet": greet}).run()
