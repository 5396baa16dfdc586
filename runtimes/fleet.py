"""All runtimes of one worker: load beside, put in place, drain the old, give the memory back."""

import asyncio
import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from runtimes.batching.batcher import Sink
from runtimes.errors import LoadFailed, ServingError
from runtimes.runtime import READY, UNAVAILABLE, WARMING, Environment, Runtime, WantedVersion, prepare

_LOAD_NICENESS: Final = 10
"""Loading must not slow those who serve: its thread gives way (measured p99 20 -> 100 ms elsewhere)."""


class Fleet:
    """(name, version) -> runtime.

    Not thread-safe: every method is called on the event loop.

    Args:
        sink_for: makes the receiver of a runtime's results, before its first request.
        on_placed: a runtime is in place, and the one before it does not drain yet: time to swap references, so
            that no request meets a runtime that drains.
    """

    def __init__(
        self,
        environment: Environment,
        sink_for: Callable[[Runtime], Sink],
        on_placed: Callable[[], None] = lambda: None,
    ) -> None:
        self._environment = environment
        self._sink_for = sink_for
        self._on_placed = on_placed
        self._serving: dict[tuple[str, int], Runtime] = {}
        self._loading: dict[tuple[str, int, str, int], Runtime] = {}
        self._failed: dict[tuple[str, int, str, int], Runtime] = {}
        self._closing: set[Runtime] = set()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=_give_way)

    def get(self, name: str, version: int) -> Runtime | None:
        """The runtime that answers for this version; None when none is READY."""
        return self._serving.get((name, version))

    def holds(self, wanted: WantedVersion) -> bool:
        """Whether this very load is READY here."""
        runtime = self._serving.get((wanted.name, wanted.version))
        return runtime is not None and runtime.wanted.key == wanted.key

    def has_failed(self, wanted: WantedVersion) -> bool:
        """Whether this very load was tried here and failed."""
        return wanted.key in self._failed

    def serving(self) -> list[Runtime]:
        """Runtimes that are in place."""
        return list(self._serving.values())

    def __iter__(self) -> Iterator[Runtime]:
        """Every runtime there is something to say about: serving, loading, failed, draining."""
        yield from self._serving.values()
        yield from self._loading.values()
        yield from self._failed.values()
        yield from self._closing

    async def load(self, wanted: WantedVersion) -> Runtime:
        """Load and warm a version beside what serves, then put it in place; an old runtime of it drains.

        Cancel: the load ends in its thread, its result is dropped.

        Raises:
            LoadFailed: with the stage; what served goes on serving.
        """
        if self.holds(wanted):
            return self._serving[wanted.name, wanted.version]
        runtime = Runtime(wanted, self._environment)
        self._failed.pop(wanted.key, None)
        self._loading[wanted.key] = runtime
        started_ns = self._environment.now_ns()
        try:
            prepared = await asyncio.get_running_loop().run_in_executor(
                self._loader, prepare, wanted, self._environment, lambda: setattr(runtime, "state", WARMING)
            )
            runtime.open(prepared, self._sink_for)
        except ServingError as error:
            self._remember_failure(runtime, error.message)
            raise
        except MemoryError as error:
            self._remember_failure(runtime, "not enough memory")
            raise LoadFailed("not enough memory", stage="session") from error
        finally:
            self._loading.pop(wanted.key, None)
        runtime.load_ns = self._environment.now_ns() - started_ns
        old = self._serving.get((wanted.name, wanted.version))
        self._serving[wanted.name, wanted.version] = runtime
        self._on_placed()
        if old is not None:
            await self._close(old)
        return runtime

    def _remember_failure(self, runtime: Runtime, reason: str) -> None:
        runtime.state = UNAVAILABLE
        runtime.reason = reason
        self._failed[runtime.wanted.key] = runtime

    async def unload(self, name: str, version: int) -> None:
        """Take a version out of service, drain it and release its memory. Unknown ones are no error."""
        runtime = self._serving.pop((name, version), None)
        if runtime is not None:
            await self._close(runtime)

    def forget_failures(self, keep: set[tuple[str, int, str, int]]) -> None:
        """Drop what is remembered of failed loads that nobody wants any more."""
        self._failed = {key: runtime for key, runtime in self._failed.items() if key in keep}

    async def _close(self, runtime: Runtime) -> None:
        self._closing.add(runtime)
        try:
            await runtime.close()
        finally:
            self._closing.discard(runtime)
        await asyncio.get_running_loop().run_in_executor(self._loader, _release)

    async def close(self) -> None:
        """Drain everything and end the threads."""
        for runtime in list(self._serving.values()):
            if runtime.state == READY:
                await self.unload(runtime.name, runtime.version)
        self._loader.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOAD_NICENESS)


def _release() -> None:
    """Collect, then give freed pages back to the system (glibc keeps them otherwise)."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
