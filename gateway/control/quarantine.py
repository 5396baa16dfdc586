"""Versions whose executions kill workers: who is to blame for a death, and what is held back for how long. Pure.

A worker writes into its page which thread executes which version; when it is killed by a signal of its own making, the
interpreter's last act is to write which thread that was (`gateway.counters.TRACE_BYTES`). Both are still there when
the worker is not.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.control.messages import WantedModel
from gateway.control.reconcile import Desired
from gateway.counters import RUNNING, CounterPage

CRASHES: Final = 3
WINDOW_S: Final = 60.0
HELD_S: Final = 600.0
"""So many crashes within the window hold a version back for so long: then at most 3 workers die in 10 minutes, and a
model that was met by bad luck comes back without anybody's help."""
REASON: Final = f"quarantine: {CRASHES} workers died within {WINDOW_S:.0f} s while they executed it"
_THREAD: Final = re.compile(rb"^Current thread 0x([0-9a-f]{1,16}) .*?(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)

Blamed = tuple[str, str, str]
"""Digest, model, version."""


def blamed(page: CounterPage, trace: bytes, *, hung: bool) -> Blamed | None:
    """The version that a dead worker was executing in the thread that brought it down; None when nobody knows.

    Args:
        trace: what the interpreter wrote at the end; nothing when the worker was killed by others.
        hung: it was killed because its loop did not answer any more.
    """
    if not trace and not hung:
        return None
    running: dict[Blamed, Sequence[int]] = {
        (key[1], key[2], key[3]): values.tolist() for key, values in page.blocks() if key[0] == RUNNING and any(values)
    }
    thread = _THREAD.search(trace)
    if thread is not None:
        running = {key: values for key, values in running.items() if int(thread[1], 16) in values}
    # A thread of the runtime's own, or a hang: only where no other can have done it.
    return next(iter(running)) if len(running) == 1 else None


def summary(trace: bytes) -> str:
    """What is worth a line in the log: the first line and the stack of the thread that crashed."""
    thread = _THREAD.search(trace)
    stack = thread[0] if thread else b""
    return b"\n".join([trace.split(b"\n", 1)[0], *stack.split(b"\n")[:12]]).decode("utf-8", "replace").strip()


class Quarantine:
    """Remembers crashes by digest.

    Args:
        crashes: digest -> times of its last crashes; what `crashes` of an earlier control said.
    """

    def __init__(self, crashes: Mapping[str, Sequence[float]]) -> None:
        self._crashes = {digest: list(times) for digest, times in crashes.items()}

    @property
    def crashes(self) -> dict[str, list[float]]:
        """Digest -> monotonic times, the last CRASHES of them."""
        return {digest: list(times) for digest, times in self._crashes.items()}

    def crashed(self, digest: str, now_s: float) -> None:
        """A worker died of it."""
        self._crashes = {known: times for known, times in self._crashes.items() if now_s - times[-1] < HELD_S}
        self._crashes[digest] = [*self._crashes.get(digest, []), now_s][-CRASHES:]

    def release(self, digest: str) -> None:
        """An operator wants to see it again."""
        self._crashes.pop(digest, None)

    def held(self, now_s: float) -> dict[str, float]:
        """Digest -> when it is let go, of those that are held back now."""
        return {
            digest: times[-1] + HELD_S
            for digest, times in self._crashes.items()
            if len(times) == CRASHES and times[-1] - times[0] <= WINDOW_S and now_s < times[-1] + HELD_S
        }


def withhold(desired: Mapping[str, Desired], digests: Iterable[str]) -> tuple[dict[str, Desired], list[WantedModel]]:
    """What is wanted without what is held back, and the latter."""
    banned = frozenset(digests)
    if not banned:
        return dict(desired), []
    found: dict[str, Desired] = {}
    withheld: list[WantedModel] = []
    for name, wanted in desired.items():
        held = [target for target in wanted.targets if target.digest in banned]
        withheld += held
        failed = {**wanted.failed, **{target.version: REASON for target in held}}
        targets = tuple(target for target in wanted.targets if target.digest not in banned)
        found[name] = replace(wanted, targets=targets, failed=failed, banned=banned) if held else wanted
    return found, withheld
