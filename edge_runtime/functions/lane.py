"""One executor and the work that waits for it: fair between apps, and whole again after a death."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence

from edge_runtime.clock import Clock
from edge_runtime.events import Event
from edge_runtime.flows.ports import Failure, Given, Outcome, Unavailable
from edge_runtime.functions.budget import Budget
from edge_runtime.functions.engines import Engine
from edge_runtime.functions.jobs import MAX_EVENTS, Job, LoadFailed, LoadJob, RunJob, UnloadJob
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.outcomes import judge
from edge_runtime.functions.remote import ExecutorDied, Remote
from edge_runtime.functions.sandbox.protocol import Load, Loaded, Outcomes, Refused, Reply, Run, Unload
from edge_runtime.functions.sandbox.serve import QUANTUM
from edge_runtime.functions.turns import Turns

_log = logging.getLogger("edge.functions")

MARGIN = 3.0
"""Seconds that an executor may be silent beyond its worst case: the machine may be busy, or swapping."""

BACKOFF = (0.0, 0.2, 1.0, 5.0)
"""Seconds before each attempt to start an executor again; the last one stands for all that follow."""

SHORT_LIFE = 10_000_000
"""Microseconds: one that ends by itself sooner than this after its start counts as an attempt that failed."""


class Lane:
    """One executor and what waits for it. A run is done in pieces, so that no app waits for another's whole batch."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.tenants = 0
        """Instances that are placed in it, those that are still being loaded included; counted by whoever places."""
        self._clock = clock
        self._turns = Turns()
        self._more = asyncio.Event()
        self._loaded: dict[int, LoadJob] = {}
        self._lost: dict[int, str] = {}
        """Apps that a new executor refused, and why."""
        self._task: asyncio.Task[None] | None = None
        self._calls = 0
        self._reported: tuple[RunJob, Outcomes] | None = None
        """What the last run came to, not looked at yet: the executor gets its next work first."""
        self._born = 0
        self._short_lives = 0
        self.remote = Remote(engine, self._more.set)
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
        return len(self._turns)

    async def start(self) -> None:
        """Start the executor. Raises `EdgeError`."""
        await self.remote.start()
        self._born = self._clock.monotonic()
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
        result = await self._submit(LoadJob(app, source, limits))
        assert isinstance(result, Loaded)
        return result

    async def unload(self, app: int) -> None:
        """Forget an app."""
        self._loaded.pop(app, None)
        self._lost.pop(app, None)
        await self._submit(UnloadJob(app))

    async def run(
        self,
        app: int,
        function: str,
        events: Sequence[Event],
        given: Given,
        limits: Limits,
        budget: Budget | None = None,
    ) -> list[Outcome]:
        """Run a function: an outcome for each of the first events, at least one. Raises `Unavailable`."""
        job = RunJob(app, function, events, given, limits, budget)
        if self.waiting:
            job.encode_ahead()  # the executor is busy with another: it need not wait for this afterwards
        await self._submit(job)
        return job.outcomes

    async def _submit(self, job: Job) -> object:
        if self._task is None or self._task.done():
            raise Unavailable("the function platform is not running")
        self._turns.put(job)
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

    def _settle(self) -> None:
        """Look at the outcomes of the last run, and tell whoever waits for them."""
        if self._reported is None:
            return
        job, reply = self._reported
        self._reported = None
        try:
            job.take([judge(body, micros, job.limits) for micros, body in reply.outcomes])
        except Exception as error:
            job.fail(error)
        if job.done and not job.future.done():
            job.future.set_result(None)

    def _fail_all(self, error: Exception) -> None:
        self._settle()
        for job in self._turns.clear():
            job.fail(error)

    async def _work(self) -> None:
        while True:
            self._more.clear()
            if self.remote.ready is None:
                self._settle()
                await self._replace()
                continue
            started = self._clock.monotonic()
            job, delay = self._turns.next(started)
            if job is None:
                self._settle()
                await self._rest(delay)
                continue
            try:
                finished = job.future.done() or await self._step(job)
            except ExecutorDied as death:
                self._settle()
                self._blame(job, str(death))
                await self._recover()
                continue
            except Exception as error:
                job.fail(error)  # to whoever waits for the job; the lane goes on
                finished = True
            self._turns.took(job, self._clock.monotonic() - started, finished)
            if isinstance(job, UnloadJob):
                self._turns.forget(job.app)

    async def _rest(self, micros: int) -> None:
        """Wait for something to do, at most so long (0: as long as it takes)."""
        if not micros:
            await self._more.wait()
            return
        waiting = [asyncio.ensure_future(self._more.wait()), asyncio.ensure_future(self._clock.sleep(micros))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _step(self, job: Job) -> bool:
        """Do a piece of a job; answers whether that was all of it."""
        if not isinstance(job, RunJob) or (self._reported is not None and self._reported[0] is job):
            self._settle()
        match job:
            case LoadJob():
                reply = await self._call_load(job)
                if job.future.done():  # nobody waits for it any more
                    await self._call(Unload(self._next(), job.app), 0.0)
                elif isinstance(reply, Loaded):
                    self._loaded[job.app] = job
                    job.future.set_result(reply)
                else:
                    job.fail(LoadFailed(reply.problem, reply.detail))
                return True
            case UnloadJob():
                await self._call(Unload(self._next(), job.app), 0.0)
                if not job.future.done():
                    job.future.set_result(None)
                return True
            case RunJob():
                return await self._step_run(job)
        raise TypeError(job)

    async def _step_run(self, job: RunJob) -> bool:
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
            call = self._call(request, (limits.time + limits.load_time + QUANTUM) / 1e6)
            reply = await (call if self._reported is None else self._meanwhile(call))
            if not isinstance(reply, Outcomes) or not 0 < len(reply.outcomes) <= len(parts):
                raise ExecutorDied("it answered with something else")
            if job.budget is not None:
                job.budget.spend(sum(micros for micros, _ in reply.outcomes), self._clock.monotonic())
            self._reported = job, reply
            job.said += sum(len(body) for _, body in reply.outcomes)
            return job.done or len(job.outcomes) + len(reply.outcomes) >= len(job.events)
        self._settle()
        if not job.future.done():
            job.future.set_result(None)
        return True

    async def _meanwhile(self, call: Coroutine[None, None, Reply]) -> Reply:
        """Make a call, and while the executor is at it, look at the outcomes of the last one."""
        calling = asyncio.ensure_future(call)
        calling.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
        try:
            await asyncio.sleep(0)  # it is sent
            self._settle()
            return await calling
        finally:
            calling.cancel()

    async def _call_load(self, job: LoadJob) -> Loaded | Refused:
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

    def _blame(self, job: Job, why: str) -> None:
        """What an executor's death means for the job it died with.

        The events that it had may be innocent (somebody else may have killed it), so they are tried once more, one by
        one; the one that is alone with a second death did it.
        """
        if isinstance(job, LoadJob):
            if job.suspect:
                job.fail(LoadFailed(b"", f"the sandbox died twice while it loaded the app: {why}"))
            job.suspect = True
        elif not isinstance(job, RunJob):
            if not job.future.done():
                job.future.set_result(None)  # what was to be forgotten is gone
        elif job.suspects:
            job.take([Failure("crash", f"the sandbox died twice on this event: {why}")])
        else:
            job.suspects = min(MAX_EVENTS, len(job.events) - len(job.outcomes))

    async def _reload(self, job: LoadJob) -> None:
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

    async def _replace(self) -> None:
        """The executor has ended, nobody was talking to it: have a new one at once, but not in a race with its end."""
        short = self._clock.monotonic() - self._born < SHORT_LIFE
        self._short_lives = self._short_lives + 1 if short else 0
        _log.warning("an idle executor ended and is started again (%s, process %d)", self.engine.name, self.remote.pid)
        await self._recover(self._short_lives)

    async def _recover(self, attempt: int = 0) -> None:
        """Start a new executor and load into it what the old one had; again and again, whatever is in the way."""
        self.restarts += 1
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
            self.remote = Remote(self.engine, self._more.set)
            await self.remote.start()
            self._born = self._clock.monotonic()
            for loaded in list(self._loaded.values()):
                await self._reload(loaded)
        except Exception as error:
            if not self.problem:
                _log.warning("an executor does not start again, it is tried on: %s", error)
            self.problem = str(error) or repr(error)
            self._fail_all(Unavailable(f"the sandbox does not start: {self.problem}"))
            return False
        return True
