"""Which nodes share the store, and what each of them acts on, as they say in one stream. Nothing is decided here.

A node speaks each second, and when its workers act on something new. One whose last word is old is named, not
forgotten: its workers may go on with what they had. One that has left says so.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.control.entries import read_entry
from gateway.store.allowed import INTEGER_MAX
from gateway.store.base import Store

STREAM: Final = "nodes"
SPEAK_MS: Final = 1_000
SILENT_MS: Final = 3_000
"""A node that has not spoken for so long is told as unreachable,"""
GONE_MS: Final = 60_000
"""and after so long it does not count any more."""
_GAP_MS: Final = 2_000
"""Between two looks; a longer one, or a clock that is set, makes nobody silent."""
_FIRST: Final = 1_000
"""Entries that a node looks back when it begins."""
TWIN: Final = (
    "another gateway speaks under this node's name, because its data folder was copied: each takes the lead from the "
    "other and counts nothing of it; stop one, remove `node.id` from its data folder and start it again"
)
_log: Final = logging.getLogger(__name__)


class Word(msgspec.Struct, frozen=True, array_like=True):
    """What a node says.

    Attributes:
        at_ms: by its clock.
        acked: policy -> lowest routing revision that a live worker of it acts on.
        workers: that it has; a node without any answers nobody, and nobody waits for it.
    """

    at_ms: int
    acked: dict[str, int]
    workers: int = 0
    leaves: bool = False


class Nodes:
    """The others, as this node has heard them.

    Args:
        name: of this node.
        now_ms: Unix time in ms; may jump.

    Attributes:
        left: those that said goodbye, and have not come back.
        twin_ms: when another process tree last spoke under this node's name; None = none has.
        gone: this node has said goodbye, and says nothing more.
    """

    def __init__(self, store: Store, name: str, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._name = name
        self._now_ms = now_ms
        self._shared = store.lines is not None
        self._cursor: int | None = None
        self._epoch = now_ms()
        self._sequence = 0
        self._said = Word(0, {})
        self._looked_ms: int | None = None
        self._heard: dict[str, Word] = {}
        self.left: set[str] = set()
        self.gone = False
        self.twin_ms: int | None = None
        self._twin_told_ms = 0

    @property
    def has_twin(self) -> bool:
        """Whether another process tree has this node's name, and lives."""
        return self.twin_ms is not None and self._now_ms() - self.twin_ms < GONE_MS

    async def look(self) -> None:
        """Hear what the others have said. Raises StoreAway."""
        if not self._shared:
            return
        first = self._cursor is None
        if self._cursor is None:
            self._cursor = max(0, (await self._store.stream_read(STREAM, INTEGER_MAX, 1)).cursor - _FIRST)
        page = await self._store.stream_read(STREAM, self._cursor)
        self._cursor, now_ms = page.cursor, self._now_ms()
        self._pass_over(now_ms)
        for entry in page.entries:
            word = read_entry(entry, STREAM, lambda body: msgspec.msgpack.decode(body, type=Word))
            if word is not None and entry.replica == self._name:
                if not first and entry.epoch != self._epoch and not word.leaves:
                    self._meet_twin(now_ms)
            elif word is not None:
                # Of what was said before this node began, only the other's clock tells how long ago.
                self._hear(entry.replica, word, min(word.at_ms, now_ms) if first else now_ms)
        self._heard = {node: word for node, word in self._heard.items() if now_ms - word.at_ms < GONE_MS}

    def _hear(self, node: str, word: Word, at_ms: int) -> None:
        if word.leaves:
            self._heard.pop(node, None)
            self.left.add(node)
        else:
            self._heard[node] = Word(at_ms, word.acked, word.workers)
            self.left.discard(node)

    def _meet_twin(self, now_ms: int) -> None:
        """It is said at once and then each minute: who reads the log must not miss it."""
        self.twin_ms = now_ms
        if not 0 <= now_ms - self._twin_told_ms < GONE_MS:
            self._twin_told_ms = now_ms
            _log.error("node_name_twice", extra={"facts": {"node": self._name, "reason": TWIN}})

    async def speak(self, acked: dict[str, int], workers: int) -> None:
        """Say what the workers of this node act on, if it is new or time. Raises StoreAway."""
        now_ms, said = self._now_ms(), self._said
        due = not 0 <= now_ms - said.at_ms < SPEAK_MS
        if self._shared and not self.gone and (due or (acked, workers) != (said.acked, said.workers)):
            await self._say(Word(now_ms, acked, workers))

    def _pass_over(self, now_ms: int) -> None:
        """Time in which nothing could be heard does not count: nobody grows older by it."""
        gap_ms = 0 if self._looked_ms is None else now_ms - self._looked_ms
        if not 0 <= gap_ms < _GAP_MS:
            self._heard = {
                node: Word(word.at_ms + gap_ms, word.acked, word.workers) for node, word in self._heard.items()
            }
        self._looked_ms = now_ms

    async def leave(self) -> None:
        """Say goodbye: nobody waits for this node any more. Raises StoreAway."""
        self.gone = True
        if self._shared:
            await self._say(Word(self._now_ms(), {}, leaves=True))

    async def _say(self, word: Word) -> None:
        self._sequence += 1
        await self._store.stream_append(STREAM, self._name, self._epoch, self._sequence, msgspec.msgpack.encode(word))
        self._said = word

    def others(self, within_ms: int = GONE_MS) -> Mapping[str, Mapping[str, int]]:
        """What other nodes act on that have spoken within this time: node -> policy -> revision."""
        now_ms = self._now_ms()
        words = [(node, word) for node, word in self._heard.items() if word.workers]
        return {node: word.acked for node, word in words if now_ms - word.at_ms < within_ms}

    def silent_ms(self) -> int:
        """For how long the most silent of them has told nothing, from `SILENT_MS` on; 0 = all are heard, or gone."""
        now_ms = self._now_ms()
        ages = [now_ms - word.at_ms for word in self._heard.values() if word.workers]
        return max((age for age in ages if SILENT_MS <= age < GONE_MS), default=0)

    def behind(self, name: str, revision: int, within_ms: int = GONE_MS) -> tuple[str, ...]:
        """Those of them whose workers do not act on this revision of a policy, or have not said so."""
        others = self.others(within_ms)
        return tuple(sorted(node for node, acked in others.items() if acked.get(name, 0) < revision))
