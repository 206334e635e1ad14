"""Carries out tasks until its input ends, and answers each with its process id. A task may ask it to exit instead."""
import json
import os
import sys

for line in sys.stdin:
    task = json.loads(line)
    asked = task["params"]["input"].get("do")
    if asked == "break":
        sys.exit("asked to break")
    print(json.dumps({"type": "result", "id": task["id"], "outcome": "success", "output": os.getpid()}), flush=True)
    if asked == "leave":
        sys.exit(0)
