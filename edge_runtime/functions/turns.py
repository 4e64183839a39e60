"""Whose turn it is in an executor: that app's which has used the least of it, unless it is beyond its share."""

from __future__ import annotations

from collections import deque

from edge_runtime.functions.jobs import Job


class Turns:
    """What waits for one executor. Each app has a queue of its own; what its jobs have taken counts against it.

    An app that comes back from a rest starts level with the one that is served least: rest earns no credit.
    """

    def __init__(self) -> None:
        self._queues: dict[int, deque[Job]] = {}
        self._used: dict[int, int] = {}
        self._level = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, job: Job) -> None:
        """One more, behind the others of its app."""
        if job.app not in self._queues:
            self._queues[job.app] = deque()
            self._used[job.app] = max(self._used.get(job.app, 0), self._level)
        self._queues[job.app].append(job)

    def next(self, now: int) -> tuple[Job | None, int]:
        """The job to go on with, which stays in its place until `took`; or None and the microseconds until there may
        be one (0: not before one more is put)."""
        soonest = 0
        for app in sorted(self._queues, key=self._used.__getitem__):
            job = self._queues[app][0]
            wait = job.budget.wait(now) if job.budget is not None else 0
            if not wait:
                self._level = max(self._level, self._used[app])
                return job, 0
            soonest = min(soonest or wait, wait)
        return None, soonest

    def took(self, job: Job, micros: int, finished: bool) -> None:
        """A piece of it is done; unless that was all, it goes behind the other jobs of its app."""
        queue = self._queues.get(job.app)
        if queue is None or queue[0] is not job:
            return  # everything was cleared meanwhile
        self._used[job.app] += micros
        queue.popleft()
        if not finished:
            queue.append(job)
        elif not queue:
            del self._queues[job.app]

    def forget(self, app: int) -> None:
        """The app will not come back."""
        if app not in self._queues:
            self._used.pop(app, None)

    def clear(self) -> list[Job]:
        """Take out everything."""
        jobs = [job for queue in self._queues.values() for job in queue]
        self._queues.clear()
        return jobs
