"""The handlers of FlowMonkey's own examples and tests, by the child protocol."""

import json
import sys
from datetime import datetime, timezone


class Failed(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def now():
    return datetime.now(timezone.utc).isoformat()


def greet(params):
    return {"greeting": f"Hello, {(params['input'] or {}).get('name', 'World')}!"}


def shout(params):
    return str(params["input"]).upper()


def flaky_api(params):
    if params["attempt"] <= 3:
        raise Failed("TRANSIENT", "Service temporarily unavailable")
    return {"data": "API response", "attemptsTaken": params["attempt"]}


def fail_twice(params):
    if params["attempt"] <= 2:
        raise Failed("TRANSIENT", f"attempt {params['attempt']}")
    return {"attempts": params["attempt"]}


def fetch(params):
    return {"data": params["input"], "fetchedAt": now()}


def transform(params):
    return {"transformed": True, "original": params["input"]}


def process_order(params):
    order = params["input"]
    return {"orderId": order["id"], "total": order["qty"] * order["price"], "status": "confirmed", "processedAt": now()}


def charge(params):
    payment = params["input"]
    return {"transactionId": params["idempotencyKey"], "amount": payment["amount"],
            "currency": payment["currency"], "charged": True}


HANDLERS = {"greet": greet, "shout": shout, "flaky-api": flaky_api, "fail-twice": fail_twice, "fetch": fetch,
            "transform": transform, "process-order": process_order, "charge": charge}

for line in sys.stdin:
    message = json.loads(line)
    if message.get("type") != "execute":
        continue
    result = {"type": "result", "id": message["id"]}
    try:
        result |= {"outcome": "success", "output": HANDLERS[message["handler"]](message["params"])}
    except Failed as failed:
        result |= {"outcome": "failure", "error": {"code": failed.code, "message": str(failed)}}
    print(json.dumps(result), flush=True)
