"""`workers: 0`: control and worker in one process, for notebooks and tests; the same link, counts and contracts."""

import asyncio
import mmap
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from gateway.config import Config
from gateway.control.counts import Finals
from gateway.control.process import Control
from gateway.counters import PAGE_BYTES, CounterPage
from gateway.slots import Slots
from gateway.worker import Identity, Worker


class Single:
    """A whole node on the running loop."""

    def __init__(self, config: Config, facts: dict[str, Any], slots: Slots | None, admin: socket.socket | None) -> None:
        self._config = config
        self._facts = facts
        self._slots = slots
        self._admin = admin
        self._stopped = asyncio.Event()
        self._signals = 0

    async def run(self) -> int:
        """Serve until a signal; gives the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        start_id = os.urandom(8).hex()
        # Mapped, not allocated: only what is written takes memory.
        page = CounterPage(memoryview(mmap.mmap(-1, PAGE_BYTES)))
        finals = Finals(memoryview(mmap.mmap(-1, PAGE_BYTES)))
        self._control = Control(self._config, self._facts, finals, lambda _: None)
        self._control.add_page(start_id, page)
        ready = asyncio.Event()
        self._worker = Worker(
            self._config,
            Identity(0, os.getpid(), start_id),
            page,
            loop,
            data_dir=Path(self._facts["data_dir"]),
            on_ready=ready.set,
            on_stopped=self._stopped.set,
        )
        ours, theirs = socket.socketpair()
        self._control.start(self._admin)
        await self._control.service.link.attach(ours)
        self._worker.start()
        self._worker.attach(theirs)
        listening = asyncio.ensure_future(self._listen(ready))
        await self._stopped.wait()
        listening.cancel()
        await self._worker.close()
        await self._control.close()
        return 0

    async def _listen(self, ready: asyncio.Event) -> None:
        await ready.wait()
        assert self._slots is not None, "bound before"
        await self._worker.listen(socket.socket(fileno=os.dup(self._slots.fileno(0))))
        self._slots.close()

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)
        self._worker.drain(time.monotonic_ns())
