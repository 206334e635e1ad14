#!/bin/sh
# A handler by the child protocol without any tools: appends the idempotency key and the attempt of each task to the log
# named by WORK_LOG, then succeeds. What it wrote is what an outside system would have seen of it.
while IFS= read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
    key=$(printf '%s' "$line" | sed -n 's/.*"idempotencyKey":"\([^"]*\)".*/\1/p')
    attempt=$(printf '%s' "$line" | sed -n 's/.*"attempt":\([0-9]*\).*/\1/p')
    [ -n "$key" ] || continue
    printf '%s %s %s\n' "$id" "$key" "$attempt" >>"$WORK_LOG"
    printf '{"type":"result","id":"%s","outcome":"success","output":{"key":"%s"}}\n' "$id" "$key"
done
