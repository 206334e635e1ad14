#!/usr/bin/env bash
# The same in a shell: one request after the other, each answer by jq.
set -eu
read -r task
id=$(jq -r .id <<<"$task")
number=0

ask() { # CALL FIELDS: the answer is in $answer
    number=$((number + 1))
    jq -nc --arg id "$id" --arg call "$1" --argjson n "$number" --argjson fields "${2:-"{}"}" \
        '{type: "request", id: $id, request: $n, call: $call} + $fields'
    read -r answer
    jq -e .ok <<<"$answer" >/dev/null || { jq -c .error <<<"$answer" >&2; exit 1; }
}

ask context.get '{"path": "order.items.0.price"}'
price=$(jq .value <<<"$answer")
ask checkpoint.load
before=$(jq -c .value <<<"$answer")
ask checkpoint.save "{\"data\": {\"seen\": $price}}"
ask progress '{"percent": 50, "message": "half"}'
ask event "{\"event\": \"price.seen\", \"data\": $price}"
ask context.set "{\"path\": \"order.total\", \"value\": $(jq -n "$price * 2")}"
ask checkpoint.load
jq -nc --arg id "$id" --argjson price "$price" --argjson before "$before" --argjson after "$(jq .value.data <<<"$answer")" \
    '{type: "result", id: $id, outcome: "success", output: {price: $price, before: $before, after: $after}}'
