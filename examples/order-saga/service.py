"""Supplier, stock, fraud check, payments and shipping in one small server: what an order talks to.

Prints its URL, serves until it is ended. GET /log tells what really happened: every request, and every effect. An effect happens
once for each Idempotency-Key, however often it is asked for. The first answer to each charge and refund is lost on purpose: the effect
is there, and the answer is 503.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

PRICES = {"banana": 3, "coconut": 12, "hammock": 249}
lock = Lock()
requests, effects, answers = [], [], {}


class Refused(Exception):
    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


def quote(body):
    if body["sku"] not in PRICES:
        raise Refused(422, f"nobody sells {body['sku']}")
    return {"sku": body["sku"], "amount": PRICES[body["sku"]] * body["quantity"]}


def stock(body):
    return {"available": all(item["quantity"] <= 100 for item in body["items"])}


def fraud(body):
    return {"score": 95 if body["total"] > 1000 else 10}


def charge(body):
    return {"id": f"charge-{len(effects) + 1}", "customer": body["customer"], "amount": body["amount"]}


def refund(body):
    return {"id": f"refund-{len(effects) + 1}", "charge": body["charge"]}


def ship(body):
    if body["address"] == "nowhere":
        raise Refused(422, "there is no such address")
    return {"id": f"shipment-{len(effects) + 1}", "tracking": f"FM{len(effects) + 1:06}"}


QUESTIONS = {"/quotes": quote, "/stock": stock, "/fraud": fraud}
ACTIONS = {"/charges": charge, "/refunds": refund, "/shipments": ship}
LOSES_FIRST_ANSWER = {"/charges", "/refunds"}


def answer(path, key, body):
    requests.append({"path": path, "key": key})
    if path in QUESTIONS:
        return 200, QUESTIONS[path](body)
    if path not in ACTIONS:
        raise Refused(404, "there is nothing here")
    if not key:
        raise Refused(400, "an Idempotency-Key is required")
    if (path, key) in answers:
        return 200, answers[path, key]
    effect = ACTIONS[path](body)
    effects.append({"path": path, "key": key, **effect})
    answers[path, key] = effect
    if path in LOSES_FIRST_ANSWER:
        raise Refused(503, "the answer was lost on the way")
    return 201, effect


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with lock:
            self.send(200, {"requests": requests, "effects": effects})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            try:
                status, reply = answer(self.path, self.headers.get("Idempotency-Key"), body)
            except Refused as refused:
                status, reply = refused.status, {"error": str(refused)}
        self.send(status, reply)

    def send(self, status, reply):
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Says nothing: GET /log tells."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
