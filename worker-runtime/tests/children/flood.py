"""Asks for many things at once, some of them nonsense, and reads the answers only then."""
import json
import sys

task = json.loads(sys.stdin.readline())
calls = [{"call": "context.get", "path": f"parts.{n}"} for n in range(100)]
calls += [{"call": "context.drop"}, {"call": "context.set", "path": "a"}, {"call": "context.get", "path": "a..b"},
          {"call": "context.get", "path": "nothing"}, {"call": "context.get"}]
calls += [{"call": "checkpoint.save", "data": n} for n in range(20)] + [{"call": "checkpoint.clear"}]
calls += [{"call": "checkpoint.save", "data": "last"}]
for number, call in enumerate(calls):
    print(json.dumps({"type": "request", "id": task["id"], "request": number, **call}), flush=True)
answers = {}
while len(answers) < len(calls):
    answer = json.loads(sys.stdin.readline())
    assert answer["request"] not in answers and answer["id"] == task["id"], answer
    answers[answer["request"]] = answer
codes = [answers[n]["error"]["code"] for n in sorted(answers) if not answers[n]["ok"]]
output = {
    "parts": [[answers[n]["value"][:3], len(answers[n]["value"])] for n in range(100)],
    "codes": codes,
    "nothing": {k: answers[103][k] for k in ("ok", "found", "value")},
}
print(json.dumps({"type": "result", "id": task["id"], "outcome": "success", "output": output}), flush=True)
