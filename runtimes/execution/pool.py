"""Threads for executions that are too long for the event loop: one per model, so none can hold up another."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol


class ThreadsafeLoop(Protocol):
    """The one call of an event loop that another thread may make."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> Any:
        """Run on the loop, soon."""


class ModelThread:
    """Runs the work of one model in order, in a thread that is started by its first work."""

    def __init__(self, loop: ThreadsafeLoop, name: str) -> None:
        self._loop = loop
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"model-{name}"[:15])

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `work`, which never raises, then `done` on the event loop."""

        def run() -> None:
            work()
            self._loop.call_soon_threadsafe(done)

        self._executor.submit(run)

    def close(self) -> None:
        """Let the thread end when its work is done; waits for nothing."""
        self._executor.shutdown(wait=False, cancel_futures=False)
