#!/usr/bin/env python3
"""A FlowMonkey worker in Python, written from docs/protocol.md alone: a pattern for other languages.

    /usr/bin/python3 worker.py redis://127.0.0.1:6379

runs the handler `greet`; for another, `Worker(url, "type", function).run()`. The function gets a `Task`, returns its
output or raises a `failure`, and calls `task.check()` now and then. What this worker loses is delivered anew when its
lease ends; careful.py loses less. Needs redis, msgpack, zstandard.
"""
import base64, hashlib, hmac, json, logging, math, signal, sys, time, uuid
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import msgpack
import redis
import zstandard
from redis.backoff import NoBackoff
from redis.retry import Retry

VERSION = "1.0.0"  # Of the handler.
MESSAGE_BYTES_MAX, CALL_BYTES_MAX, COMPRESSED_FROM_BYTES = 64 << 20, 32 << 20, 16 << 10
SEAL_BYTES_MAX = 16 << 10
ANNOUNCE_EVERY, LOOK_EVERY, TRY_AGAIN, FLUSH = 10, 1, 0.2, 10  # Seconds.
KEYS = """tasks:{%s}:high tasks:{%s} tasks:{%s}:low payload:{%s} terms:{%s} latest:{%s} leases:{%s} owners:{%s}
results:{%s} outcomes:{%s} cancel:{%s} generation:{%s} bell:{%s} workers:{%s} unreadable:{%s} gone:{%s}
senders:{%s} listeners:{%s}"""


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
    if len(body) >= MESSAGE_BYTES_MAX - SEAL_BYTES_MAX:
        raise ValueError("the message is too large")
    frame = zstandard.compress(body, 1) if len(body) > COMPRESSED_FROM_BYTES else body
    return b"\x02" + frame if len(frame) < len(body) else b"\x01" + body


def seal(message, token):
    head, secret = token.rsplit(".", 1)
    tag = hmac.new(secret.encode(), b"flowmonkey.result.v1\n" + message, hashlib.sha256).digest()
    mac = head.encode() + b"." + base64.urlsafe_b64encode(tag).rstrip(b"=")
    return b"\x03" + mac + b"\n" + message


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
    """Runs the handler of one pool. `slots`: tasks at a time. `grace`: seconds that handlers have at the end."""

    def __init__(self, url, pool, handler, slots=4, grace=20):
        # No client may repeat a claim by itself: what the first one took would be in nobody's hands.
        self.redis = redis.Redis.from_url(url, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        self.pool, self.handler, self.slots, self.room, self.grace = pool, handler, slots, slots, grace
        self.name = f"python-{uuid.uuid4().hex}"  # Never the same again.
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.tasks, self.claims, self.threads = {}, 0, ThreadPoolExecutor(slots)
        self.announce_at, self.extended_at, self.release_at = 0, 0, math.inf

    def key(self, name):
        return f"flowmonkey:{name}:{{{self.pool}}}"

    def call(self, function, *arguments):
        keys = ["flowmonkey:" + key % self.pool for key in KEYS.split()]
        if function not in ("extend", "announce"):
            keys.append(f"{self.key('processing')}:{self.name}")
        return self.redis.execute_command(
            "FCALL", f"flowmonkey_3_{function}", len(keys), *keys, self.name, *arguments)

    def succeeds(self, function, *arguments):
        try:
            function(*arguments)
            return True
        except redis.RedisError as error:
            logging.warning("%s failed: %s", function.__name__, error)
            time.sleep(TRY_AGAIN)

    def run(self):
        """Works until SIGTERM; then lets handlers end, and gives back what has not ended in time."""
        signal.signal(signal.SIGTERM, self.drain)
        while self.tasks or self.release_at == math.inf:
            now, pause = time.monotonic(), self.pause()
            if now >= self.announce_at:
                self.announce_at = now + ANNOUNCE_EVERY
                self.succeeds(self.announce)
            if now >= self.extended_at + pause:
                self.extended_at = now
                self.succeeds(self.extend)
            for task in self.hands() if now >= self.release_at else []:
                task.told = task.told or Ended({"outcome": "released"})
            if self.release_at == math.inf and len(self.tasks) < self.room:
                self.succeeds(self.claim)
            else:
                wait([task.future for task in self.hands()], pause, FIRST_COMPLETED)
        self.succeeds(self.redis.hdel, self.key("workers"), self.name)

    def drain(self, *_):
        self.announce_at, self.extended_at, self.release_at = 0, 0, time.monotonic() + self.grace

    def hands(self):
        """Tasks whose results are not accepted yet."""
        return list(self.tasks.copy().values())

    def pause(self):
        return min([LOOK_EVERY] + [task.beat for task in self.hands()])

    def claim(self):
        self.claims += 1
        claimed_at = time.monotonic()  # Before the call: this worker's time is up before the queue's.
        low_first, room = int(self.claims % 10 == 0), self.room - len(self.tasks)
        generation, _, found = self.call("claim", room, low_first, CALL_BYTES_MAX)
        for id, body in zip(found[::2], found[1::2]):
            try:
                self.begin(id.decode(), decode(body), generation, claimed_at)
            except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
                self.cannot_read(id.decode(), error)
        if not found:
            self.redis.blpop(self.key("bell"), timeout=self.pause())

    def begin(self, id, message, generation, claimed_at):
        task = Task(message, generation, claimed_at)
        if (task.id, message["pool"]) != (id, self.pool):
            raise ValueError("the message is of another delivery")
        self.tasks[id] = task
        task.future = self.threads.submit(self.execute, task)

    def cannot_read(self, id, error):
        logging.error("%s cannot be read: %s", id, error)  # It is delivered anew when its lease ends.

    def execute(self, task):
        try:
            task.check()
            if task.message["handler"].get("version") not in (None, "*", VERSION):  # Others read requirements.
                raise failure("HANDLER_VERSION_MISMATCH", f"this worker has version {VERSION}")
            output = json.loads(json.dumps(self.handler(task), allow_nan=False))  # Only JSON may travel.
            body = self.pack(task, {"outcome": "success", "output": output})
        except Ended as ended:
            body = ended.args[0] and self.pack(task, ended.args[0])
        except Exception as error:
            body = self.pack(task, failure("HANDLER_ERROR", f"{type(error).__name__}: {error}").args[0])
        if body:
            self.finish(task.id, body)
        del self.tasks[task.id]

    def pack(self, task, fields):
        result = {name: task.message[name] for name in ("taskId", "attempt", "executionId", "stepId")}
        result.update(fields, v=1, metrics={"workerId": self.name})
        return seal(encode(result), task.message["token"])

    def finish(self, id, body):
        """Hands in a result, again and again until Redis has it. The lease is kept meanwhile."""
        while time.monotonic() < self.release_at + FLUSH:
            if self.succeeds(self.call, "finish", self.key("results-bell"), id, body):
                return

    def announce(self):
        presence = {"worker": self.name, "pools": [self.pool], "version": VERSION, "slots": self.slots}
        presence.update(running=len(self.tasks), startedAt=self.started, draining=self.release_at < math.inf)
        presence["manifests"] = [{"type": self.pool, "version": VERSION}]
        answer = self.call("announce", json.dumps(presence), self.key("results-bell"))
        if answer == self.started.encode() and self.release_at == math.inf:
            self.drain()

    def extend(self):
        sent_at = time.monotonic()
        tasks = [task for task in self.hands() if sent_at < task.fence_at]
        if tasks:
            self.heard(tasks, sent_at, *self.call("extend", *[task.id for task in tasks]))

    def heard(self, tasks, sent_at, generation, lost, cancelled):
        for task in tasks:
            task.generation = generation
            task.confirm(-math.inf if task.id.encode() in lost else sent_at)
            if task.id.encode() in cancelled:
                task.told = failure("CANCELLED", "the task was cancelled", False)


def greet(task):
    return f"Hello, {task.message['input']['name']}!"


if __name__ == "__main__":
    Worker(sys.argv[1], "greet", greet).run()
