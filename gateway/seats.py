"""Places in the process tree: each holds one child at a time, which comes and goes. Standard library only."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import lifeline

STABLE_S: Final = 60.0
"""Who lived so long is restarted at once when it dies; who dies sooner waits a little longer each time."""
BIRTH_S: Final = 30.0
"""A child may be silent so long after its start: it imports."""


@dataclass(frozen=True, slots=True)
class Command:
    """How any child is started; its role and its facts (name=value) are appended."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


class Seat:
    """Control's place, or the one of a worker.

    Attributes:
        starts: how often a child was started here.
        start_id: names the current or last start, unique for ever.
        listening: it has taken its slot.
        reason: why the last start ended.
        due_s: no start before.
        left_s: since when its listening socket has had nobody to accept; None = somebody does.
    """

    def __init__(self, role: str, slot: int) -> None:
        self.role, self.slot = role, slot
        self.starts = self._short_lives = 0
        self.start_id = self.reason = ""
        self.listening = False
        self.due_s = 0.0
        self.left_s: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._killed_for = ""
        self._started_s = self._heard_s = 0.0

    def __repr__(self) -> str:
        return f"<Seat {self.role} {self.slot} pid={self.pid} starts={self.starts} {self.reason}>"

    @property
    def pid(self) -> int | None:
        """Of the child that sits here; None = nobody."""
        return self._process.pid if self._process else None

    def start(self, command: Command, descriptors: Mapping[str, int], now_s: float) -> socket.socket:
        """Put a new child here; gives the line, for the caller to watch. Raises OSError when none can be made."""
        self.starts += 1
        self._started_s, self._heard_s = now_s, now_s + BIRTH_S
        line, theirs = lifeline.pair()
        passed = {"line": theirs.fileno(), **descriptors}
        facts = {"slot": self.slot, "start_id": self.start_id, "parent": os.getpid(), **passed}
        argv = [*command.argv, self.role, *(f"{name}={value}" for name, value in facts.items())]
        # A mask is inherited: a Ctrl-C to the whole terminal cannot hit a child that does not ignore it yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, lifeline.STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(
                argv, env=command.environment, pass_fds=[*passed.values()], stdin=subprocess.DEVNULL
            )
        except OSError:
            line.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, lifeline.STOP_SIGNALS)
            theirs.close()
        self._line, self._killed_for = line, ""
        return line

    def say(self, message: lifeline.Message, descriptors: Sequence[int] = ()) -> None:
        """Tell the child. To nobody it goes nowhere; who does not listen is killed."""
        if self._line is None:
            return
        try:
            lifeline.say(self._line, message, descriptors)
        except OSError:
            self.kill("does not listen to the supervisor")

    def hear(self, now_s: float) -> lifeline.Message | None:
        """The child's next message; None when there is none now or will ever be."""
        try:
            heard = lifeline.hear(self._line) if self._line else None
        except OSError:
            return None
        # The first word ends the patience that a birth is given.
        self._heard_s = now_s
        return heard[0] if heard else None

    def silent_s(self, now_s: float) -> float:
        """Time since it was heard last."""
        return now_s - self._heard_s if self._process else 0.0

    def kill(self, reason: str) -> None:
        """Kill the child, for a reason that its death will be reported with."""
        if self._process is not None and not self._killed_for:
            self._killed_for = reason
            self._process.kill()

    def reap(self) -> int | None:
        """Exit code of a child that has ended, negative for a signal; None = it lives, or nobody is here."""
        return self._process.poll() if self._process else None

    def clear(self, why: str, now_s: float, backoff_s: Sequence[float]) -> socket.socket | None:
        """The child is dead: free the seat and decide when the next may come; gives the line, to be closed."""
        lived_s = now_s - self._started_s
        self._short_lives = 0 if lived_s > STABLE_S else self._short_lives + 1
        self.due_s = now_s + backoff_s[min(self._short_lives, len(backoff_s)) - 1] if self._short_lives else now_s
        self.reason = self._killed_for or why
        if self.listening:
            self.left_s = now_s
        self.listening = False
        line, self._line, self._process = self._line, None, None
        return line


def describe(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
