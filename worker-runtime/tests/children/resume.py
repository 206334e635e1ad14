"""Saves a checkpoint and breaks; once there is a checkpoint, it is the output."""
import json
import sys

task = json.loads(sys.stdin.readline())
checkpoint = task["params"]["checkpoint"]
if checkpoint is None:
    print(json.dumps({"type": "checkpoint", "id": task["id"], "data": {"page": 7}}), flush=True)
    sys.exit("broke on page 8")
print(json.dumps({"type": "result", "id": task["id"], "outcome": "success", "output": checkpoint}))
