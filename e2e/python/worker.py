#!/usr/bin/env python3
"""A FlowMonkey worker in Python, written from docs/protocol.md alone: a pattern for other languages.

    /usr/bin/python3 worker.py redis://127.0.0.1:6379

runs the handler `greet`; for another, `Worker(url, "type", function).run()`. The function gets a `Task`,
returns its output or raises a `failure`, and calls `task.check()` now and then. Needs redis, msgpack, zstandard.
"""
import base64, hashlib, hmac, json, logging, signal, struct, sys, threading, time, uuid
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import msgpack
import redis
import zstandard
from redis.backoff import NoBackoff
from redis.retry import Retry

VERSION = "1.0.0"  # Of the handler.
MESSAGE_BYTES_MAX, CALL_BYTES_MAX, COMPRESSED_FROM_BYTES = 64 << 20, 32 << 20, 16 << 10
ANNOUNCE_EVERY, LOOK_EVERY, TRY_AGAIN, FLUSH = 10, 1, 0.2, 10  # Seconds.
KEYS = """tasks:{%s}:high tasks:{%s} tasks:{%s}:low payload:{%s} terms:{%s} latest:{%s} leases:{%s} owners:{%s}
results:{%s} outcomes:{%s} cancel:{%s} generation:{%s} bell:{%s} workers:{%s} unreadable:{%s} gone:{%s}"""
SEALED = """attempt contextPatches contextUpdates cost error events metadata nextStepOverride outcome output
resumeToken retryAfterMs rows runAgain taskId waitForEvent waitReason waitUntil"""


class Ended(Exception):
    """Ends a handler. `args[0]`: fields of the result; without any, nothing is handed in."""


def failure(code, message, retryable=True):
    return Ended({"outcome": "failure", "error": {"code": code, "message": message, "retryable": retryable}})


def decode(data):
    body = data[1:]
    if data[:1] == b"\x02":
        if zstandard.frame_content_size(body) >= MESSAGE_BYTES_MAX:
            raise ValueError("the message is too large")
        body = zstandard.ZstdDecompressor().decompress(body, max_output_size=MESSAGE_BYTES_MAX)
    message = msgpack.unpackb(body)
    if data[:1] not in (b"\x01", b"\x02") or message["v"] > 1:
        raise ValueError("the message is of an unknown version")
    return message


def encode(message):
    body = msgpack.packb(message)
    if len(body) >= MESSAGE_BYTES_MAX:
        raise ValueError("the message is too large")
    frame = zstandard.compress(body, 1) if len(body) > COMPRESSED_FROM_BYTES else body
    return b"\x02" + frame if len(frame) < len(body) else b"\x01" + body


def canonical(value):
    if value is None or isinstance(value, bool):
        return {None: b"n", True: b"t", False: b"f"}[value]
    if isinstance(value, float) and not (value.is_integer() and abs(value) < 2**53):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, (int, float)):
        return b"i%d;" % value
    if isinstance(value, str):
        return b"s%d:" % len(value.encode()) + value.encode()
    if isinstance(value, list):
        return b"[%d:" % len(value) + b"".join(map(canonical, value))
    names = sorted(value, key=str.encode)
    return b"{%d:" % len(value) + b"".join(canonical(name) + canonical(value[name]) for name in names)


def mac(result, token):
    head, secret = token.rsplit(".", 1)
    sealed = {name: result[name] for name in SEALED.split() if name in result}
    tag = hmac.new(secret.encode(), b"flowmonkey.result.v1\n" + canonical(sealed), hashlib.sha256).digest()
    return head + "." + base64.urlsafe_b64encode(tag).rstrip(b"=").decode()


class Task:
    """A delivery in this worker's hands. All times are of the monotonic clock."""

    def __init__(self, message, generation, claimed_at):
        self.message, self.generation, self.told = message, generation, None
        self.id = f"{message['taskId']}:{message['attempt']}"
        self.ends_at, self.lease = claimed_at + message["remainingMs"] / 1000, message["leaseMs"] / 1000
        self.beat = message["heartbeatIntervalMs"] / 1000
        self.confirm(claimed_at)

    def confirm(self, sent_at):
        """The lease was there at `sent_at` or later. The handler stops before it can have ended."""
        self.fence_at = sent_at + self.lease - min(self.lease / 6, 5)

    def check(self):
        """Raises what ends the handler, when it is to end."""
        if time.monotonic() >= self.fence_at:
            raise Ended(None)
        if time.monotonic() >= self.ends_at:
            raise failure("TIMEOUT", "the attempt ran out of time")
        if self.told:
            raise self.told


class Worker:
    """Runs the handler of one pool. `slots`: tasks at a time. `prefetch`: tasks claimed beyond that, whose time
    runs already; with the slots, at most 500. `grace`: seconds that handlers have at the end."""

    def __init__(self, url, pool, handler, slots=4, prefetch=0, grace=20):
        # No client may repeat a claim by itself: what the first one took would be in nobody's hands.
        self.redis = redis.Redis.from_url(url, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        self.pool, self.handler, self.slots, self.room = pool, handler, slots, slots + prefetch
        self.name = f"python-{uuid.uuid4().hex}"  # Never the same again.
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.tasks, self.claims, self.in_doubt = {}, 0, False  # `tasks`: until their results are accepted.
        self.grace, self.announce_at, self.give_up_at = grace, 0, float("inf")
        self.threads = ThreadPoolExecutor(slots)
        self.draining, self.ended, self.news = threading.Event(), threading.Event(), threading.Event()
        self.keeping = threading.Lock()  # A heartbeat from before would take back what is given back.

    def key(self, name):
        return f"flowmonkey:{name}:{{{self.pool}}}"

    def call(self, function, *arguments):
        keys = ["flowmonkey:" + key % self.pool for key in KEYS.split()]
        if function not in ("extend", "announce"):
            keys.append(f"{self.key('processing')}:{self.name}")
        words = ["FCALL", f"flowmonkey_1_{function}", len(keys), *keys, self.name, *arguments]
        return self.redis.execute_command(*words)

    def succeeds(self, function, *arguments):
        try:
            function(*arguments)
            return True
        except redis.RedisError as error:
            logging.warning("%s failed: %s", function.__name__, error)
            time.sleep(TRY_AGAIN)

    def run(self):
        """Works until SIGTERM. Then gives back what was not begun, and lets the rest end."""
        signal.signal(signal.SIGTERM, lambda *_: self.draining.set())
        keeper = threading.Thread(target=self.keep)
        keeper.start()
        while not self.draining.is_set():
            self.succeeds(self.claim)
        self.drain()
        self.ended.set()
        self.news.set()
        keeper.join()
        self.succeeds(self.redis.hdel, self.key("workers"), self.name)

    def claim(self):
        """Claims for the free slots. Waits for a slot when there is none, for a task when there is none."""
        if len(self.tasks) >= self.room:
            wait([task.future for task in self.tasks.copy().values()], LOOK_EVERY, FIRST_COMPLETED)
            return
        if self.in_doubt:  # The last claim may have taken what this worker has not heard of.
            self.call("release_others", *self.tasks.copy())
        self.in_doubt, self.claims = True, self.claims + 1
        claimed_at = time.monotonic()  # Before the call: this worker's time is up before the queue's.
        room, low_first = self.room - len(self.tasks), int(self.claims % 10 == 0)
        generation, _, found = self.call("claim", room, low_first, CALL_BYTES_MAX)
        self.in_doubt = False
        for id, body in zip(found[::2], found[1::2]):
            self.accept(id.decode(), body, generation, claimed_at)
        self.news.set()
        if not found:
            self.redis.blpop(self.key("bell"), timeout=LOOK_EVERY)

    def accept(self, id, body, generation, claimed_at):
        try:
            task = Task(decode(body), generation, claimed_at)
            if (task.id, task.message["pool"]) != (id, self.pool):
                raise ValueError("the message is of another delivery")
            self.tasks[id] = task
            task.future = self.threads.submit(self.execute, task)
        except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
            number, attempt = id.rsplit(":", 1)
            result = {"v": 1, "taskId": number, "attempt": int(attempt), "executionId": "", "stepId": ""}
            result.update(failure("TASK_UNREADABLE", str(error)).args[0])
            self.threads.submit(self.finish, id, encode(result))

    def execute(self, task):
        try:
            task.check()
            if task.message["handler"].get("version") not in (None, "*", VERSION):  # Others read requirements.
                raise failure("HANDLER_VERSION_MISMATCH", f"this worker has version {VERSION}")
            output = json.dumps(self.handler(task), allow_nan=False)  # Only JSON may travel.
            fields = {"outcome": "success", "output": json.loads(output)}
        except Ended as ended:
            fields = ended.args[0]
        except Exception as error:
            fields = failure("HANDLER_ERROR", f"{type(error).__name__}: {error}").args[0]
        if fields:
            self.finish(task.id, self.seal(task, fields))
        del self.tasks[task.id]

    def seal(self, task, fields):
        """A result as it travels, with its proof. What cannot travel is replaced with a failure."""
        result = {name: task.message[name] for name in ("taskId", "attempt", "executionId", "stepId")}
        result.update(fields, v=1, metrics={"workerId": self.name})
        try:
            return encode({**result, "mac": mac(result, task.message["token"])})
        except (ValueError, OverflowError, RecursionError) as error:
            return self.seal(task, failure("RESULT_UNWRITABLE", str(error), False).args[0])

    def finish(self, id, body):
        """Hands in a result, again and again until Redis has it. The lease is kept meanwhile."""
        while time.monotonic() < self.give_up_at:
            if self.succeeds(self.call, "finish", self.key("results-bell"), id, body):
                return

    def keep(self):
        """Announces the worker and keeps its leases, in a thread of its own."""
        while not self.ended.is_set():
            if time.monotonic() >= self.announce_at:
                self.announce_at = time.monotonic() + ANNOUNCE_EVERY
                self.succeeds(self.announce)
            with self.keeping:
                self.succeeds(self.extend)
            self.news.wait(max(0.01, min([LOOK_EVERY] + [task.beat for task in self.tasks.copy().values()])))
            self.news.clear()

    def announce(self):
        presence = {"worker": self.name, "pools": [self.pool], "version": VERSION, "slots": self.slots}
        presence.update(running=len(self.tasks), startedAt=self.started, draining=self.draining.is_set())
        presence["manifests"] = [{"type": self.pool, "version": VERSION}]
        self.call("announce", json.dumps(presence), self.key("results-bell"))

    def extend(self):
        sent_at = time.monotonic()
        tasks = [task for task in self.tasks.copy().values() if sent_at < task.fence_at]
        if not tasks:
            return
        generation, lost, cancelled = self.call("extend", *[task.id for task in tasks])
        if generation in (b"", b"0") or any(task.generation != generation for task in tasks):
            # The queue was emptied, and what it calls lost proves nothing: put the leases back.
            leases, sent_at = [], time.monotonic()
            for task in tasks:
                leases += [task.id, int(task.lease * 1000), int(max(0, task.ends_at - sent_at) * 1000)]
            generation, lost, cancelled = self.call("reassert", *leases)
        for task in tasks:
            task.generation = generation
            task.confirm(float("-inf") if task.id.encode() in lost else sent_at)
            if task.id.encode() in cancelled:
                task.told = failure("CANCELLED", "the task was cancelled", False)

    def drain(self):
        self.announce_at = 0
        self.news.set()
        with self.keeping:
            untouched = [task.id for task in self.tasks.copy().values() if task.future.cancel()]
            for id in untouched:
                del self.tasks[id]
            self.succeeds(self.call, "release", *untouched)
        wait([task.future for task in self.tasks.copy().values()], self.grace)
        for task in self.tasks.copy().values():
            task.told = task.told or Ended({"outcome": "released"})
        self.give_up_at = time.monotonic() + FLUSH
        self.threads.shutdown()


def greet(task):
    return f"Hello, {task.message['input']['name']}!"


if __name__ == "__main__":
    Worker(sys.argv[1], "greet", greet).run()
