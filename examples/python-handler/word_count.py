"""A handler in Python, with nothing but its standard library: one JSON document per line in and out.

The first attempt gives up half way, so that the second one shows what a checkpoint is for.
"""

import json
import sys


def send(**message):
    print(json.dumps(message), flush=True)


def count_words(task, params):
    documents = params["input"]["documents"]
    # What an earlier attempt of this task saved.
    checkpoint = params.get("checkpoint")
    state = checkpoint["data"] if checkpoint else {"done": 0, "words": {}}
    if state["done"]:
        send(type="log", id=task, level="info", message=f"going on at document {state['done']}")
    while state["done"] < len(documents):
        for word in documents[state["done"]].lower().split():
            state["words"][word] = state["words"].get(word, 0) + 1
        state["done"] += 1
        send(type="checkpoint", id=task, data=state)
        percent = 100 * state["done"] / len(documents)
        send(type="progress", id=task, percent=percent, message=f"{state['done']} of {len(documents)}")
        if params["attempt"] == 1 and state["done"] * 2 >= len(documents):
            send(type="result", id=task, outcome="failure",
                 error={"code": "TIRED", "message": "gave up half way"})
            return
    print("what a handler writes to standard error is logged", file=sys.stderr)
    send(type="event", id=task, event="words.counted", data={"documents": len(documents)})
    send(type="result", id=task, outcome="success", output=state["words"],
         contextUpdates={"report.documents": len(documents), "report.attempt": params["attempt"]})


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("type") == "execute":
            count_words(message["id"], message["params"])


main()
