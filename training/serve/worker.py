"""The thread in which the model runs. Everything else talks to it by jobs; it alone touches the engine.

A job is a request's samples of one prompt. What they say is handed to the event loop step by step, so that no client,
slow or gone, keeps the others waiting.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from training.inference.engine import Engine, Event
from training.inference.sampling import Sampling

log = logging.getLogger("gristmill.serve")


class Failed(Exception):
    """The engine could not go on with a job."""


class Mailbox:
    """What the samples of one request say, for whoever waits for it in the event loop."""

    def __init__(self) -> None:
        self._events: list[tuple[int, Event]] = []
        self._failure: str | None = None
        self._ready = asyncio.Event()

    async def take(self) -> list[tuple[int, Event]]:
        """Wait for (choice, event); what a slow reader has missed comes together. Raises `Failed`."""
        await self._ready.wait()
        if self._failure is not None:
            raise Failed(self._failure)
        self._ready.clear()
        found, self._events = self._events, []
        return found

    def give(self, first: int, events: list[Event]) -> None:
        """Put events in, of a job whose choices are numbered from `first`."""
        self._events += [(first + event.sample, event) for event in events]
        self._ready.set()

    def fail(self, why: str) -> None:
        """Let `take` raise."""
        self._failure = why
        self._ready.set()


class Job:
    """Samples of one prompt."""

    def __init__(
        self, mailbox: Mailbox, first: int, prompt: Sequence[int], sampling: Sampling, samples: int, top: int
    ) -> None:
        """first: the number of the first of its choices in the request."""
        self.mailbox, self.first, self.prompt, self.sampling = mailbox, first, prompt, sampling
        self.samples, self.top = samples, top
        self.open = samples  # that have not ended
        self.number: int | None = None  # the engine's


@dataclass
class _Held:
    """What the thread knows of a job: when it came, and how many samples have not ended."""

    job: Job
    since: float
    open: int


class Worker:
    """One engine, one thread. Made and used in the event loop; `engine` makes a new engine where one has failed."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        rows: int,
        waiting: int,
        setup: Callable[[], object] = lambda: None,
    ) -> None:
        """rows, waiting: samples that run, and that may wait. setup: called first in the thread."""
        self._setup = setup
        self._make = engine
        self._engine = engine()
        self.rows, self.capacity = rows, rows + waiting
        self.open = 0  # samples that run or wait
        self.seconds = 1.0  # a sample's, running mean: what a refused client is told to wait by
        self.generated = self.steps = self.failures = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Call in the event loop that jobs are awaited in."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; jobs that have not ended get no more events."""
        self._inbox.put(("stop", None))
        self._thread.join()

    def check(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Raise the `TrainingError` that the engine would have for this prompt."""
        self._engine.check(prompt, sampling)

    @property
    def running(self) -> int:
        """Samples that have a row."""
        return len(self._engine.rows)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def room_for(self, samples: int) -> bool:
        """Whether so many more may run or wait."""
        return self.open + samples <= self.capacity

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that there is room for."""
        for job in jobs:
            self.open += job.samples
            self._inbox.put(("add", (job, time.monotonic())))

    def cancel(self, job: Job) -> None:
        """Free the rows of a job; a job that has ended is no error."""
        if job.open:
            self.open -= job.open
            job.open = 0
            self._inbox.put(("cancel", job))

    # in the event loop, from the thread

    def _deliver(self, found: list[tuple[Job, list[Event]]]) -> None:
        for job, events in found:
            if not job.open:
                continue  # cancelled meanwhile
            ended = sum(event.finish is not None for event in events)
            job.open -= ended
            self.open -= ended
            job.mailbox.give(job.first, events)

    def _fail(self, jobs: list[Job], why: str) -> None:
        self.failures += 1
        for job in jobs:
            self.open -= job.open
            job.open = 0
            job.mailbox.fail(why)

    # in the thread

    def _run(self) -> None:
        self._setup()
        jobs: dict[int, _Held] = {}
        while True:
            try:
                if not self._read(jobs, wait=not self._engine.busy):
                    return
                if not self._engine.busy:
                    continue
                events = self._engine.step()
                self.steps += 1
                self._hand_over(jobs, events)
            except Exception as error:  # whatever it is, other jobs to come must find a server that works
                log.exception("the engine failed; the jobs that it held are given up")
                held = [one.job for one in jobs.values()]
                jobs.clear()
                self._engine = self._make()
                self._call(self._fail, held, f"{type(error).__name__}: {error}"[:300])

    def _read(self, jobs: dict[int, _Held], wait: bool) -> bool:
        """Do what stands in the inbox; false if the thread is to end."""
        while True:
            try:
                what, value = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            wait = False
            if what == "stop":
                return False
            if what == "add":
                job, since = value
                try:
                    job.number = self._engine.add(job.prompt, job.sampling, job.samples, top=job.top)
                except Exception as error:  # it has been checked, so this is none of the client's mistakes
                    log.exception("a job was not taken")
                    self._call(self._fail, [job], f"{type(error).__name__}: {error}"[:300])
                    continue
                jobs[job.number] = _Held(job, since, job.samples)
            elif value.number is not None and value.number in jobs:
                self._engine.cancel(value.number)
                del jobs[value.number]

    def _hand_over(self, jobs: dict[int, _Held], events: list[Event]) -> None:
        by_job: dict[int, list[Event]] = {}
        for event in events:
            by_job.setdefault(event.request, []).append(event)
        found = []
        for number, mine in by_job.items():
            held = jobs[number]
            found.append((held.job, mine))
            for event in mine:
                if event.finish is not None:
                    self.seconds += 0.1 * (time.monotonic() - held.since - self.seconds)
                    held.open -= 1
            if not held.open:
                del jobs[number]
        self.generated += len(events)
        self._call(self._deliver, found)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has been closed: nobody listens any more
            log.warning("events came after the end")
