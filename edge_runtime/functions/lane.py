"""One executor and the work that waits for it: fair between apps, and whole again after a death."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from edge_runtime.events import Event
from edge_runtime.flows.ports import Failure, Given, Outcome, Success, Unavailable
from edge_runtime.functions.engines import Engine
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.outcomes import encode_event, encode_given, judge
from edge_runtime.functions.remote import ExecutorDied, Remote
from edge_runtime.functions.sandbox.protocol import Load, Loaded, Outcomes, Refused, Reply, Run, Unload
from edge_runtime.functions.sandbox.serve import QUANTUM

_log = logging.getLogger("edge.functions")

MAX_EVENTS = 256
"""Events handed over at once. More gains nothing (measured), and what an executor does not begin is sent again."""

MAX_BYTES = 1024 * 1024
"""JSON handed over at once, unless a single event is larger."""

MARGIN = 3.0
"""Seconds that an executor may be silent beyond its worst case: the machine may be busy, or swapping."""

BACKOFF = (0.0, 0.2, 1.0, 5.0)
"""Seconds before each attempt to start an executor again; the last one stands for all that follow."""


class LoadFailed(Exception):
    """The guest refused an app; `problem` is its JSON, or empty."""

    def __init__(self, problem: bytes, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


class _Job:
    """Something to be done by an executor; `future` takes the result."""

    def __init__(self) -> None:
        self.future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """Tell whoever waits that it will not be done."""
        if not self.future.done():
            self.future.set_exception(error)


class _LoadJob(_Job):
    def __init__(self, app: int, source: str, limits: Limits) -> None:
        super().__init__()
        self.app = app
        self.source = source
        self.limits = limits
        self.suspect = False
        """An executor died while it loaded this."""


class _UnloadJob(_Job):
    def __init__(self, app: int) -> None:
        super().__init__()
        self.app = app


class _RunJob(_Job):
    def __init__(self, app: int, function: str, events: Sequence[Event], given: Given, limits: Limits) -> None:
        super().__init__()
        self.app = app
        self.function = function
        self.events = events
        self.given = given
        self.limits = limits
        self._states = {key: dict(state) for key, state in given.states.items()}
        """As the outcomes so far have left them."""
        self.outcomes: list[Outcome] = []
        self.suspects = 0
        """How many of the next events were in the hands of an executor that died: they go one by one."""
        self._encoded: dict[int, bytes] = {}

    def chunk(self) -> list[bytes]:
        """The next events, encoded. Those that cannot be encoded before them fail here."""
        parts: list[bytes] = []
        size = 0
        index = len(self.outcomes)
        while index < len(self.events) and len(parts) < (1 if self.suspects else MAX_EVENTS):
            try:
                part = self._encoded.pop(index, None) or encode_event(self.events[index])
            except (TypeError, ValueError, RecursionError) as error:
                if parts:
                    break
                self.take([Failure("error", f"the event's data cannot be handed to a function: {error}")])
                index += 1
                continue
            self._encoded[index] = part
            if parts and size + len(part) > MAX_BYTES:
                break
            parts.append(part)
            size += len(part)
            index += 1
        return parts

    def chunk_given(self, count: int) -> str:
        """What is given with the next `count` events, for the guest."""
        if not self._states:
            return ""
        start = len(self.outcomes)
        keys = {self.given.key(event) for event in self.events[start : start + count]}
        return encode_given({key: state for key in keys if (state := self._states.get(key))})

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """Note the outcomes of the next events."""
        for event, outcome in zip(self.events[len(self.outcomes) :], outcomes, strict=False):
            if isinstance(outcome, Success) and outcome.state:
                state = self._states.setdefault(self.given.key(event), {})
                for name, entry in outcome.state.items():
                    if entry is None:
                        state.pop(name, None)
                    else:
                        state[name] = entry
        self.outcomes += outcomes
        self.suspects = max(0, self.suspects - len(outcomes))


class Lane:
    """One executor and its queue. Jobs take turns; a run is done in pieces, so that none waits for a whole batch."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tenants = 0
        """Instances that are placed in it, those that are still being loaded included; counted by whoever places."""
        self._queue: deque[_Job] = deque()
        self._more = asyncio.Event()
        self._loaded: dict[int, _LoadJob] = {}
        self._lost: dict[int, str] = {}
        """Apps that a new executor refused, and why."""
        self._task: asyncio.Task[None] | None = None
        self._calls = 0
        self.remote = Remote(engine)
        self.restarts = 0
        self.problem = ""
        """Why there is no executor just now; empty where there is one."""

    @property
    def apps(self) -> int:
        """How many apps it holds."""
        return len(self._loaded)

    @property
    def waiting(self) -> int:
        """How many jobs wait or run."""
        return len(self._queue)

    async def start(self) -> None:
        """Start the executor. Raises `EdgeError`."""
        await self.remote.start()
        self._task = asyncio.get_running_loop().create_task(self._supervise())

    async def stop(self) -> None:
        """End the executor; what waits becomes `Unavailable`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all(Unavailable("the function platform is stopping"))
        await self.remote.stop()

    async def load(self, app: int, source: str, limits: Limits) -> Loaded:
        """Load an app under a number. Raises `LoadFailed` or `Unavailable`."""
        result = await self._submit(_LoadJob(app, source, limits))
        assert isinstance(result, Loaded)
        return result

    async def unload(self, app: int) -> None:
        """Forget an app."""
        self._loaded.pop(app, None)
        self._lost.pop(app, None)
        await self._submit(_UnloadJob(app))

    async def run(
        self, app: int, function: str, events: Sequence[Event], given: Given, limits: Limits
    ) -> list[Outcome]:
        """Run a function: one outcome for each event. Raises `Unavailable`."""
        job = _RunJob(app, function, events, given, limits)
        await self._submit(job)
        return job.outcomes

    async def _submit(self, job: _Job) -> object:
        if self._task is None or self._task.done():
            raise Unavailable("the function platform is not running")
        self._queue.append(job)
        self._more.set()
        return await job.future

    async def _supervise(self) -> None:
        """Work until cancelled. What no one foresaw fails the jobs that wait; it does not end the lane."""
        while True:
            try:
                await self._work()
            except Exception as error:
                _log.exception("an executor's work was interrupted; it goes on")
                self._fail_all(Unavailable(f"the function platform stumbled: {error!r}"))
                await asyncio.sleep(BACKOFF[-1])

    def _fail_all(self, error: Exception) -> None:
        for job in self._queue:
            job.fail(error)
        self._queue.clear()

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
            job = self._queue[0]
            try:
                finished = job.future.done() or await self._step(job)
            except ExecutorDied as death:
                self._blame(job, str(death))
                await self._recover()
                continue
            except Exception as error:
                job.fail(error)  # to whoever waits for the job; the lane goes on
                finished = True
            self._queue.popleft()
            if not finished:
                self._queue.append(job)

    async def _step(self, job: _Job) -> bool:
        """Do a piece of a job; answers whether that was all of it."""
        match job:
            case _LoadJob():
                reply = await self._call_load(job)
                if job.future.done():  # nobody waits for it any more
                    await self._call(Unload(self._next(), job.app), 0.0)
                elif isinstance(reply, Loaded):
                    self._loaded[job.app] = job
                    job.future.set_result(reply)
                else:
                    job.fail(LoadFailed(reply.problem, reply.detail))
                return True
            case _UnloadJob():
                await self._call(Unload(self._next(), job.app), 0.0)
                if not job.future.done():
                    job.future.set_result(None)
                return True
            case _RunJob():
                return await self._step_run(job)
        raise TypeError(job)

    async def _step_run(self, job: _RunJob) -> bool:
        if job.app not in self._loaded:  # unloaded between two pieces, or lost with the executor that had it
            lost = self._lost.get(job.app)
            job.fail(Unavailable(f"the app no longer loads: {lost}" if lost else "the app's version was unloaded"))
            return True
        parts = job.chunk()
        if parts:
            limits = job.limits
            request = Run(
                self._next(),
                job.app,
                job.function,
                "[" + b",".join(parts).decode() + "]",
                job.chunk_given(len(parts)),
                len(parts),
                limits.time,
                limits.output,
            )
            reply = await self._call(request, (limits.time + limits.load_time + QUANTUM) / 1e6)
            if not isinstance(reply, Outcomes) or not 0 < len(reply.outcomes) <= len(parts):
                raise ExecutorDied("it answered with something else")
            events = job.events[len(job.outcomes) :]
            reported = zip(reply.outcomes, events, strict=False)  # it may have given way before the end
            job.take([judge(body, micros, event, limits) for (micros, body), event in reported])
        if len(job.outcomes) < len(job.events):
            return False
        if not job.future.done():
            job.future.set_result(None)
        return True

    async def _call_load(self, job: _LoadJob) -> Loaded | Refused:
        request = Load(self._next(), job.app, job.source, job.limits.memory, job.limits.load_time)
        reply = await self._call(request, job.limits.load_time / 1e6)
        if not isinstance(reply, (Loaded, Refused)):
            raise ExecutorDied("it answered with something else")
        return reply

    async def _call(self, request: Load | Run | Unload, worst_case: float) -> Reply:
        reply = await self.remote.call(request, worst_case + MARGIN)
        if getattr(reply, "call", None) != request.call:
            self.remote.kill()
            raise ExecutorDied("it answered another question")
        return reply

    def _next(self) -> int:
        self._calls += 1
        return self._calls

    def _blame(self, job: _Job, why: str) -> None:
        """What an executor's death means for the job it died with.

        The events that it had may be innocent (somebody else may have killed it), so they are tried once more, one by
        one; the one that is alone with a second death did it.
        """
        if isinstance(job, _LoadJob):
            if job.suspect:
                job.fail(LoadFailed(b"", f"the sandbox died twice while it loaded the app: {why}"))
            job.suspect = True
        elif not isinstance(job, _RunJob):
            if not job.future.done():
                job.future.set_result(None)  # what was to be forgotten is gone
        elif job.suspects:
            job.take([Failure("crash", f"the sandbox died twice on this event: {why}")])
        else:
            job.suspects = min(MAX_EVENTS, len(job.events) - len(job.outcomes))

    async def _reload(self, job: _LoadJob) -> None:
        """Load again what a dead executor had. An app that does not load any more is lost, not the lane."""
        lost = ""
        try:
            reply = await self._call_load(job)
            job.suspect = False
            if isinstance(reply, Refused):
                lost = reply.detail or reply.problem.decode(errors="replace")
        except ExecutorDied as death:
            lost = f"the sandbox died twice while it loaded the app: {death}" if job.suspect else ""
            job.suspect = True
            raise
        finally:
            if lost:
                self._lost[job.app] = lost
                self._loaded.pop(job.app, None)

    async def _recover(self) -> None:
        """Start a new executor and load into it what the old one had; again and again, whatever is in the way."""
        self.restarts += 1
        attempt = 0
        try:
            while not await self._restart(BACKOFF[min(attempt, len(BACKOFF) - 1)]):
                attempt += 1
        finally:
            self.problem = ""

    async def _restart(self, delay: float) -> bool:
        """One attempt to recover; where it fails, so does what waits."""
        try:
            await self.remote.stop()
            await asyncio.sleep(delay)
            self.remote = Remote(self.engine)
            await self.remote.start()
            for loaded in list(self._loaded.values()):
                await self._reload(loaded)
        except Exception as error:
            if not self.problem:
                _log.warning("an executor does not start again, it is tried on: %s", error)
            self.problem = str(error) or repr(error)
            self._fail_all(Unavailable(f"the sandbox does not start: {self.problem}"))
            return False
        return True
