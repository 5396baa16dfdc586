"""The parent of the tree: sockets, signals, births and deaths. Standard library only; no store, no decisions.

It holds what must outlive its children: listening sockets, counter pages, the admin socket. When it dies they die
(parent-death signal), so nothing is left behind. `gateway.lifeline` lists what is said between them.
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway import lifeline
from gateway.counters import PAGE_BYTES
from gateway.seats import Command, Seat, describe
from gateway.slots import Slots

SLOT_PATIENCE_S: Final = 2.0
"""So long connections wait for the respawn of the worker that they were assigned to."""
REFUSED: Final = 2
"""Exit code of a child that will not run with this configuration: no restart would help."""
_TICK_S: Final = 0.1


Log = Callable[[str, str, dict[str, object]], None]
"""Writes one structured line: level, event, facts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the supervisor has to know.

    Attributes:
        config_fd: the resolved configuration, for the children.
        stop_s: from the signal until whoever is left is killed.
        backoff_s: pause before the first, second, ... restart in a row; the last stays.
    """

    command: Command
    config_fd: int
    stop_s: float
    heartbeat_timeout_s: float
    backoff_s: tuple[float, ...]


class Supervisor:
    """Runs the tree until a signal; one worker for each slot."""

    def __init__(self, settings: Settings, slots: Slots, admin: socket.socket | None, log: Log) -> None:
        self._settings, self._slots, self._admin, self._log = settings, slots, admin, log
        self._control = Seat("control", 0)
        self._workers = [Seat("worker", slot) for slot in range(len(slots))]
        self._seats = [self._control, *self._workers]
        self._pages: dict[str, tuple[int, int]] = {}  # start id -> slot, page; until control has folded a dead one
        self._finals = lifeline.memory("tidegate-finals", PAGE_BYTES)
        self._selector = selectors.DefaultSelector()
        self._kill_s: float | None = None  # when the rest is killed; None = not stopping
        self._exit_code = 0
        self._was_ready = False

    def run(self) -> int:
        """Start everything, keep it running, stop it on a signal; gives the exit code."""
        signals = lifeline.signals()
        self._selector.register(signals, selectors.EVENT_READ)
        while self._kill_s is None or any(seat.pid for seat in self._seats):
            self._tick(time.monotonic())
            for key, _ in self._selector.select(_TICK_S):
                if isinstance(key.data, Seat):
                    self._hear(key.data)
                    continue
                for number in signals.recv(64):
                    self._on_signal(number)
            self._reap()
        return self._exit_code

    def _tick(self, now_s: float) -> None:
        for seat in self._seats:
            if seat.silent_s(now_s) > self._settings.heartbeat_timeout_s:
                seat.kill(lifeline.HUNG)
            if seat.pid is None and self._kill_s is None and now_s >= seat.due_s:
                self._start(seat, now_s)
            if seat.left_s is not None and now_s > seat.left_s + SLOT_PATIENCE_S:
                self._renew_slot(seat)
        if self._kill_s is not None:
            if not any(worker.pid for worker in self._workers):
                self._control.say({"say": "stop"})
            if now_s > self._kill_s:
                self._kill_all("it did not stop in time")

    # ---- births and deaths ----

    def _start(self, seat: Seat, now_s: float) -> None:
        seat.start_id = os.urandom(8).hex()
        passed = {"config": self._settings.config_fd}
        if seat is self._control:
            passed["finals"] = self._finals
            if self._admin is not None:
                passed["admin"] = self._admin.fileno()
        else:
            passed["page"] = lifeline.memory("tidegate-page", PAGE_BYTES)
            self._pages[seat.start_id] = seat.slot, passed["page"]
        try:
            line = seat.start(self._settings.command, passed, now_s)
        except OSError as error:
            self._clear(seat, f"cannot start a process: {error.strerror}")
            return
        self._selector.register(line, selectors.EVENT_READ, seat)
        if seat is self._control:
            for start_id in self._pages.keys() - {worker.start_id for worker in self._workers if worker.pid}:
                slot, page = self._pages[start_id]
                seat.say({"say": "dead", "start_id": start_id, "slot": slot}, [page])
        for worker in self._workers if seat is self._control else [seat]:
            if worker.pid is not None and self._control.pid is not None:
                self._introduce(worker)

    def _introduce(self, worker: Seat) -> None:
        """Link the living control and a living worker."""
        facts = {"start_id": worker.start_id, "slot": worker.slot, "pid": worker.pid, "restarts": worker.starts - 1}
        ours, theirs = socket.socketpair()
        with ours, theirs:
            page = self._pages[worker.start_id][1]
            self._control.say({"say": "worker", **facts, "reason": worker.reason}, [ours.fileno(), page])
            worker.say({"say": "link"}, [theirs.fileno()])

    def _reap(self) -> None:
        for seat in self._seats:
            code = seat.reap()
            if code is None:
                continue
            while self._hear(seat):
                pass
            self._clear(seat, describe(code))
            if code == REFUSED and self._kill_s is None:
                self._exit_code = REFUSED
                self._kill_s = 0.0

    def _clear(self, seat: Seat, why: str) -> None:
        line = seat.clear(why, time.monotonic(), self._settings.backoff_s)
        if line is not None:
            self._selector.unregister(line)
            line.close()
        if seat is not self._control:
            self._control.say({"say": "gone", "start_id": seat.start_id, "reason": seat.reason})
        if self._kill_s is None:
            facts = {"role": seat.role, "slot": seat.slot, "reason": seat.reason, "starts": seat.starts}
            self._log("error", "child_died", facts)

    def _renew_slot(self, seat: Seat) -> None:
        """The respawn takes too long: another worker accepts what waits, and the slot is made anew."""
        seat.left_s = None
        with self._slots.renew(seat.slot) as old:
            for other in self._workers:
                if other.listening:
                    other.say({"say": "adopt"}, [old.fileno()])
                    break

    # ---- words and signals ----

    def _hear(self, seat: Seat) -> bool:
        message = seat.hear(time.monotonic())
        if message is None:
            return False
        match message["say"]:
            case "ready" if self._kill_s is None:
                seat.say({"say": "slot"}, [self._slots.fileno(seat.slot)])
            case "listening":
                seat.listening, seat.left_s = True, None
                self._log("info", "worker_listening", {"slot": seat.slot, "pid": seat.pid})
                if not self._was_ready and all(worker.listening for worker in self._workers):
                    self._was_ready = True
                    self._log("info", "all_listening", {"workers": len(self._workers)})
            case "folded":
                os.close(self._pages.pop(message["start_id"])[1])
        return True

    def _on_signal(self, number: int) -> None:
        if number not in lifeline.STOP_SIGNALS:
            return
        if self._kill_s is not None:
            self._exit_code = 128 + number
            self._kill_all("second signal")
            return
        self._log("info", "draining", {"signal": signal.Signals(number).name})
        started_ns = time.monotonic_ns()
        self._kill_s = started_ns / 1e9 + self._settings.stop_s
        for worker in self._workers:
            if worker.left_s is not None:
                self._renew_slot(worker)
        self._slots.close()  # Whoever listens is now the last holder of its slot, and closes it when it is time.
        for worker in self._workers:
            worker.say({"say": "drain", "started_ns": started_ns})

    def _kill_all(self, reason: str) -> None:
        for seat in self._seats:
            seat.kill(reason)
