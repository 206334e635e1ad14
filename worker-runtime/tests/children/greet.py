"""Greets, and uses each kind of line once."""
import json
import sys

task = json.loads(sys.stdin.readline())


def say(**line):
    print(json.dumps({"id": task["id"], **line}), flush=True)


say(type="log", level="warn", message="hello")
say(type="progress", percent=45, message="half")
say(type="checkpoint", data={"page": 2})
say(type="event", event="greeting.sent", data={"to": "you"})
say(type="unknown", anything=True)
say(type="result", outcome="success", output=task["params"]["input"], contextUpdates={"a.b": 1}, cost={"tokens": 3})
