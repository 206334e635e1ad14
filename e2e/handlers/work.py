"""A handler by the child protocol. It notes what an outside system would see of each attempt in the file WORK_LOG: one line
when it begins and one when it ends. `config` says what it does: `sleepMs`, `failTimes` (the first attempts fail),
`die` (the process ends), `killWorker` (the process that runs this one is killed)."""

import json
import os
import signal
import sys
import time

LOG = os.open(os.environ["WORK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def note(what, params, task):
    line = {"what": what, "task": task, "key": params["idempotencyKey"], "attempt": params["attempt"], "pid": os.getpid()}
    os.write(LOG, (json.dumps(line) + "\n").encode())


def answer(task, **fields):
    sys.stdout.write(json.dumps({"type": "result", "id": task, **fields}) + "\n")
    sys.stdout.flush()


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "execute":
        continue
    task, params = message["id"], message["params"]
    config = params.get("config") or {}
    note("begin", params, task)
    if config.get("die"):
        os._exit(9)
    if config.get("killWorker"):
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(9)
    time.sleep(config.get("sleepMs", 0) / 1000)
    if params["attempt"] <= config.get("failTimes", 0):
        note("fail", params, task)
        answer(task, outcome="failure", error={"code": "WORK_FAILED", "message": "as asked", "retryable": True})
    else:
        note("end", params, task)
        answer(task, outcome="success", output={"key": params["idempotencyKey"], "input": params.get("input")})
