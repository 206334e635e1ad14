"""The handlers of the tests, and workers that misbehave. `cases.py URL FOLDER SLOTS PREFETCH HANDLER`

What happens is written to FOLDER/notes; `hold` ends when FOLDER/gate is there; when FOLDER/lose is there, the answer of one
claim is lost."""
import os
import pathlib
import sys
import time

import redis

import careful
import worker

FOLDER = pathlib.Path(sys.argv[2])


def note(*words):
    with open(FOLDER / "notes", "a", encoding="utf-8") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


def flaky(task):
    attempt = task.message["attempt"]
    if attempt < 3:
        raise worker.failure("NOT_YET", f"attempt {attempt} of 3")
    return {"attempt": attempt, "half": 0.5}


def hold(task):
    place = (task.message["input"], task.message["attempt"])
    note("begun", *place, os.getpid())
    try:
        while not (FOLDER / "gate").exists():
            task.check()
            time.sleep(0.01)
    except worker.Ended:
        lost = "lost" if task.fence_at == float("-inf") else "fenced"
        note("stopped", *place, "cancel" if task.told else lost)
        raise
    note("ended", *place)
    return task.message["attempt"]


def mirror(task):
    return {"text": task.message["input"]["text"][::-1] * 2}


def forge(task):
    return "honest"


def unwritable(task):
    return {1: 2**64} if task.message["input"] == "integer" else {3, 4}


class Cases(careful.Careful):
    def call(self, function, *arguments):
        answer = super().call(function, *arguments)
        if function == "claim" and answer[2] and self.pool == "mirror" and (FOLDER / "lose").exists():
            (FOLDER / "lose").unlink()
            raise redis.ConnectionError("the answer was lost")
        return answer

    def pack(self, task, fields):
        body = super().pack(task, fields)
        mac, message = body.split(b"\n", 1)
        note("format", task.message["stepId"], message[0])
        if self.pool == "forge" and task.message["attempt"] == 1:
            return mac + b"\n" + worker.encode({**worker.decode(message), "output": "forged"})
        return body


if __name__ == "__main__":
    url, slots, prefetch, name = sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    known = {"greet": worker.greet, "flaky": flaky, "hold": hold, "mirror": mirror, "forge": forge}
    known["unwritable"] = unwritable
    Cases(url, name, known[name], slots, prefetch).run()
