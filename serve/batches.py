"""Jobs of many requests put together into batches, without making anybody wait for company.

An idle replica starts at once with what is there; what arrives while it computes becomes the next batch. The decorator
of Ray Serve does otherwise: it closes a batch when a fixed time is over, whether the model is free or not, so a short
time gives batches of one image under load and a long one delays a lonely request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, overload

from raytrain_xai.serving.engine import AnyJob, Job, SegmentJob
from raytrain_xai.serving.insight_jobs import ImageSegments
from raytrain_xai.serving.jobs import ImageAnswer
from serve.meter import Meter

Answers = Sequence[ImageAnswer] | Sequence[ImageSegments]
RunJobs = Callable[[Sequence[AnyJob]], Sequence[Answers | Exception]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    job: AnyJob
    answers: asyncio.Future[Answers]


class BatchQueue:
    """First come, first served, by one thread; to be called from one event loop.

    Args:
        run: answers jobs together; per job its answers or what went wrong.
        images: of a batch at most; a job that has more is a batch of its own.
        meter: is told about batches and what waits.
        prepare_thread: called in the thread before its first batch, to set what belongs to a thread.
    """

    def __init__(self, run: RunJobs, *, images: int, meter: Meter, prepare_thread: Callable[[], None]) -> None:
        self._run = run
        self._images = images
        self._meter = meter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=prepare_thread)
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    @overload
    async def __call__(self, job: Job) -> Sequence[ImageAnswer]: ...

    @overload
    async def __call__(self, job: SegmentJob) -> Sequence[ImageSegments]: ...

    async def __call__(self, job: AnyJob) -> Sequence[Any]:
        """Answers of a job, one per image; a caller that is cancelled meanwhile takes its place in the queue along.

        Raises:
            Exception: what the job went wrong with.
        """
        waiting = _Waiting(job, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._meter.queue(len(self._waiting))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await waiting.answers
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    async def compute(self, work: Callable[[], None]) -> None:
        """Run something in the thread of the forward passes, after the batch that is under way."""
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread once the batch under way is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while self._waiting:
            batch = self._take()
            started = time.perf_counter()
            try:
                answered = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._run, [waiting.job for waiting in batch]
                )
            except Exception as error:
                answered = [error] * len(batch)  # not of one job, so all callers are told
            self._meter.batch(sum(len(waiting.job.images) for waiting in batch), time.perf_counter() - started)
            for waiting, answers in zip(batch, answered, strict=True):
                _deliver(waiting.answers, answers)

    def _take(self) -> list[_Waiting]:
        """The jobs at the head of the queue that fit into a batch, at least one."""
        batch = [self._waiting.popleft()]
        images = len(batch[0].job.images)
        while self._waiting and images + len(self._waiting[0].job.images) <= self._images:
            batch.append(self._waiting.popleft())
            images += len(batch[-1].job.images)
        self._meter.queue(len(self._waiting))
        return batch


def _deliver(to: asyncio.Future[Answers], answers: Answers | Exception) -> None:
    if to.done():
        return  # the caller has left
    if isinstance(answers, Exception):
        to.set_exception(answers)
    else:
        to.set_result(answers)
