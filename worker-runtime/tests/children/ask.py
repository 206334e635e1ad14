"""Asks for what it needs: a part of the context, its checkpoint; tells how far it is; stages changes."""
import itertools
import json
import sys

numbers = itertools.count(1)
task = json.loads(sys.stdin.readline())


def ask(call, **fields):
    number = next(numbers)
    print(json.dumps({"type": "request", "id": task["id"], "request": number, "call": call, **fields}), flush=True)
    for line in sys.stdin:
        answer = json.loads(line)
        if answer["type"] == "answer" and answer["request"] == number:
            if not answer["ok"]:
                sys.exit(f"{call}: {answer['error']}")
            return answer
    sys.exit("cancelled")


price = ask("context.get", path="order.items.0.price")["value"]
before = ask("checkpoint.load")["value"]
ask("checkpoint.save", data={"seen": price})
ask("progress", percent=50, message="half", counters={"items": {"value": 1, "total": 2}})
ask("event", event="price.seen", data=price)
ask("context.set", path="order.total", value=price * 2)
ask("log", message="done")
output = {"price": price, "before": before, "after": ask("checkpoint.load")["value"]["data"]}
print(json.dumps({"type": "result", "id": task["id"], "outcome": "success", "output": output}), flush=True)
