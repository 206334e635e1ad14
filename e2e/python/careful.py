#!/usr/bin/env python3
"""worker.py, and what saves work when something goes wrong: it is whole without that.

- tasks are claimed in advance, and given back at once when the worker ends before it begins them (`prefetch`);
- what a claim took whose answer was lost is given back at once, not when its lease ends;
- a lost queue is told what runs here, so that it is not run twice;
- messages that cannot be read and results that cannot travel are said to be so.
"""
import math
import sys
import time

import worker


class Careful(worker.Worker):
    """`prefetch`: tasks claimed beyond the slots, whose time runs already; with the slots, at most 500."""

    def __init__(self, url, pool, handler, slots=4, prefetch=0, grace=20):
        super().__init__(url, pool, handler, slots, grace)
        self.room, self.in_doubt = slots + prefetch, False

    def claim(self):
        if self.in_doubt:  # The last claim may have taken what this worker has not heard of.
            self.call("release_others", *[task.id for task in self.hands()])
        self.in_doubt = True
        super().claim()
        self.in_doubt = False

    def cannot_read(self, id, error):
        number, attempt = id.rsplit(":", 1)
        result = {"v": 1, "taskId": number, "attempt": int(attempt), "executionId": "", "stepId": ""}
        result.update(worker.failure("TASK_UNREADABLE", str(error)).args[0])
        self.threads.submit(self.finish, id, worker.encode(result))

    def pack(self, task, fields):
        try:
            return super().pack(task, fields)
        except (ValueError, OverflowError, RecursionError) as error:
            return super().pack(task, worker.failure("RESULT_UNWRITABLE", str(error), False).args[0])

    def extend(self):
        # What has not begun goes back first. A heartbeat that named it later would take it back.
        untouched = [task.id for task in self.hands() if self.release_at < math.inf and task.future.cancel()]
        for id in untouched:
            del self.tasks[id]
        if untouched:
            self.call("release", *untouched)
        super().extend()

    def heard(self, tasks, sent_at, generation, lost, cancelled):
        if generation in (b"", b"0") or any(task.generation != generation for task in tasks):
            # The queue was emptied, and what it calls lost proves nothing: put the leases back.
            leases, sent_at = [], time.monotonic()
            for task in tasks:
                leases += [task.id, int(task.lease * 1000), int(max(0, task.ends_at - sent_at) * 1000)]
            generation, lost, cancelled = self.call("reassert", *leases)
        super().heard(tasks, sent_at, generation, lost, cancelled)


if __name__ == "__main__":
    Careful(sys.argv[1], "greet", worker.greet).run()
