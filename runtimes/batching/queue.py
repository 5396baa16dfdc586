"""The queue of one runtime: buckets of equal shape, by priority, first come first served. Pure; no clock.

A job that leaves early (cancelled, expired) is only marked; its place in the line is skipped when reached.
Invariant: `rows` and `size_bytes` are the sums over jobs in state QUEUED.
"""

from collections import deque
from collections.abc import Iterator

from runtimes.batching.job import NEW, QUEUED, RUNNING, Job


class JobQueue:
    """Jobs in state QUEUED.

    A batch never mixes buckets, so one odd shape does not close the batch of the others (no head-of-line
    block); the bucket served next is the one whose head came first at the best priority.

    Attributes:
        again: batches that failed, in halves; they run before what waits, and are in no sum.
    """

    __slots__ = ("_lines", "_sequence", "again", "jobs", "rows", "size_bytes")

    def __init__(self) -> None:
        self._lines: dict[tuple[int, object], deque[Job]] = {}
        self._sequence = 0
        self.again: deque[list[Job]] = deque()
        self.jobs = 0
        self.rows = 0
        self.size_bytes = 0

    def push(self, job: Job, now_ns: int) -> None:
        """Add a job at the end of its line."""
        self._sequence += 1
        job.sequence = self._sequence
        job.enqueued_ns = now_ns
        job.state = QUEUED
        line = self._lines.get((job.priority, job.bucket))
        if line is None:
            line = self._lines[job.priority, job.bucket] = deque()
        line.append(job)
        self.jobs += 1
        self.rows += job.rows
        self.size_bytes += job.size_bytes

    def drop(self, job: Job) -> None:
        """Take a queued job out, wherever it stands; it is NEW again, so the caller decides its end."""
        assert job.state == QUEUED, "only a queued job can be dropped"
        self._leave(job, NEW)

    def _leave(self, job: Job, state: int) -> None:
        job.state = state
        self.jobs -= 1
        self.rows -= job.rows
        self.size_bytes -= job.size_bytes

    def head(self) -> Job | None:
        """The job that the next batch starts with."""
        best: Job | None = None
        if len(self._lines) == 1:
            (line,) = self._lines.values()
            if line and line[0].state == QUEUED:
                return line[0]
        for key, line in list(self._lines.items()):
            while line and line[0].state != QUEUED:
                line.popleft()
            if not line:
                del self._lines[key]
            elif best is None or (line[0].priority, line[0].sequence) < (best.priority, best.sequence):
                best = line[0]
        return best

    def take(self, head: Job, limit_rows: int) -> list[Job]:
        """Remove the next batch: the head, then its bucket in order while the rows fit.

        Lower priorities of the same bucket fill what is left. Shapes: the sum of rows is at most
        `limit_rows`, except that the head alone is always taken.

        Args:
            head: what `head` gives now.
        """
        batch: list[Job] = []
        rows = 0
        for key in (
            sorted(key for key in self._lines if key[1] == head.bucket)
            if len(self._lines) > 1
            else ((head.priority, head.bucket),)
        ):
            line = self._lines[key]
            while line:
                job = line[0]
                if job.state != QUEUED:
                    line.popleft()
                    continue
                if batch and rows + job.rows > limit_rows:
                    return batch
                line.popleft()
                self._leave(job, RUNNING)
                batch.append(job)
                rows += job.rows
            del self._lines[key]
        return batch

    def waiting(self) -> Iterator[Job]:
        """Every queued job, in no order that matters."""
        for line in self._lines.values():
            for job in line:
                if job.state == QUEUED:
                    yield job

    def __repr__(self) -> str:
        again = f", {len(self.again)} batches again" if self.again else ""
        return f"<JobQueue {self.jobs} jobs, {self.rows} rows in {len(self._lines)} lines{again}>"
