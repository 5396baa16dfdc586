"""References from the first rows of versions that have none: collected from workers, made, kept in the store.

parts of workers --call first_rows--> memory of this node --a thread--> reference --compare-and-set--> the store

Each node collects from its own workers; who has enough first writes, and all count by what was written. Rows are in
memory alone: when control dies they are lost, and it begins anew. So they are when a worker's last part is.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway.control.messages import Collected, WantedModel
from gateway.control.monitorheld import Progress, in_words
from gateway.control.references import as_asked, sha256_of
from gateway.monitor.firstrows import FirstRows
from gateway.monitor.firsttap import read
from gateway.monitor.fit import Choices, Fitted
from gateway.monitor.reference import Reference, ReferenceRefused, dumped, loaded
from gateway.monitor.settings import Spec
from gateway.store.base import Limits, Stale, Store, StoreAway

KIND: Final = "monitor-first"
KEPT: Final = 8
"""References of a model; of versions that are not served the oldest go first."""
MOST_BYTES: Final = 256 * 1024 * 1024
_log: Final = logging.getLogger(__name__)


class Place(NamedTuple):
    """Whose first rows, and how many of them."""

    name: str
    version: int
    digest: str
    wanted: int


class Made(msgspec.Struct, frozen=True, array_like=True):
    """A reference as it is kept.

    Attributes:
        digest: of the version's files.
        since_ms: when its first rows were waited for.
        content: as of a `reference.npz`.
    """

    digest: str
    wanted: int
    since_ms: int
    content: bytes


@dataclass(slots=True)
class Collecting:
    """Rows on their way to a reference.

    Attributes:
        rows: None = they became a reference, or were refused.
        fitting: the reference is being made.
        made: it is to be kept.
        problem: why there will be none.
    """

    since_ms: int
    rows: FirstRows | None
    fitting: "asyncio.Task[Fitted | str] | None" = None
    made: Made | None = None
    problem: str = ""


class FirstReferences:
    """Those of this node. Every method runs on the loop.

    Args:
        most_bytes: of rows of all versions together.
    """

    def __init__(self, store: Store, *, now_ms: Callable[[], int], most_bytes: int = MOST_BYTES) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._now_ms = now_ms
        self._collecting: dict[Place, Collecting] = {}
        self._asked: set[Place] = set()
        self._served: set[Place] = set()
        self._revisions: dict[str, int] = {}
        self._kept: dict[str, dict[tuple[str, int], tuple[Made, Reference]]] = {}

    # ---- what control asks each second ----

    async def find(self, model: WantedModel, spec: Spec) -> tuple[Reference | None, str]:
        """A version's reference, and why there will be none; both empty = it is being collected.

        Raises StoreAway: nobody knows yet whether one was made.
        """
        assert spec.reference.first is not None, "first rows are asked for"
        place = Place(model.name, model.version, model.digest, spec.reference.first)
        self._asked.add(place)
        await self._look(model.name)
        kept = self._kept[model.name].get((place.digest, place.wanted))
        if kept is not None:
            self._collecting.pop(place, None)
            return as_asked(kept[1], spec), ""
        one = self._collecting.get(place)
        if one is None:
            one = self._collecting[place] = Collecting(self._now_ms(), FirstRows(place.wanted))
            _log.info("monitor_collects", extra={"facts": _facts(place)})
        if one.rows is not None and not one.rows.missing:
            choices = Choices(names=model.config.feature_names, min_rows=spec.min_rows)
            await self._fit(place, one, Path(model.directory) / model.file, choices)
        if one.made is not None:
            await self._keep(place, one)
        return None, one.problem

    def collected(self) -> tuple[Collected, ...]:
        """Versions whose rows are wanted, of those asked for since the last call; rows of others are forgotten."""
        for place in set(self._collecting) - self._asked:
            del self._collecting[place]
        for name in set(self._kept) - {place.name for place in self._asked}:
            del self._kept[name], self._revisions[name]
        self._served, self._asked = self._asked, set()
        return tuple(
            Collected(place.name, place.version, place.digest, place.wanted, one.since_ms)
            for place, one in sorted(self._collecting.items())
            if one.rows is not None and one.rows.missing
        )

    def progress(self, name: str) -> dict[str, Progress]:
        """Version -> how far it is; a version whose reference was refused, or that has one of its own, is not in it."""
        found: dict[str, Progress] = {}
        for place in self._asked:
            kept = self._kept[place.name].get((place.digest, place.wanted)) if place.name == name else None
            one = self._collecting.get(place) if place.name == name else None
            if kept is not None:
                found[str(place.version)] = Progress(place.wanted, place.wanted, kept[0].since_ms / 1000)
            elif one is not None and not one.problem:
                rows = place.wanted if one.rows is None else one.rows.rows
                found[str(place.version)] = Progress(rows, place.wanted, one.since_ms / 1000)
        return found

    async def _look(self, name: str) -> None:
        """What was made, here or on another node."""
        try:
            document = await self._store.get(KIND, name)
        except StoreAway:
            if name in self._kept:
                return  # what is known goes on
            raise
        revision = document.revision if document is not None else 0
        if self._revisions.get(name) == revision:
            return
        self._revisions[name], self._kept[name] = revision, {}
        for one in _read(name, document.body) if document is not None else ():
            try:
                self._kept[name][one.digest, one.wanted] = one, loaded(one.content)
            except ReferenceRefused as error:
                _unreadable(name, str(error))

    # ---- what workers send ----

    def take(self, name: str, version: int, since_ms: int, part: bytes) -> int:
        """Rows of a version; how many more are wanted."""
        for place, one in self._collecting.items():
            if (place.name, place.version, one.since_ms) != (name, version, since_ms) or one.rows is None:
                continue
            try:
                one.rows.take(read(part))
                if (
                    sum(other.rows.bytes for other in self._collecting.values() if other.rows is not None)
                    > self._most_bytes
                ):
                    raise ReferenceRefused("there is no room beside the first rows of other versions; ask again later")
            except ReferenceRefused as error:
                self._refused(place, one, str(error))
                return 0
            return one.rows.missing
        return 0

    @staticmethod
    def _refused(place: Place, one: Collecting, why: str) -> None:
        one.rows = one.fitting = None
        one.problem = f"reference from the first {place.wanted:,} rows: {why}"

    # ---- making ----

    async def _fit(self, place: Place, one: Collecting, file: Path, choices: Choices) -> None:
        """Begin to make a reference, or take it when it is made: a round of monitors does not wait for it."""
        if one.fitting is None:
            assert one.rows is not None, "asked before"
            one.fitting = asyncio.create_task(asyncio.to_thread(_fitted, one.rows, file, choices))
        if not one.fitting.done():
            return
        found = one.fitting.result()
        if isinstance(found, str):
            self._refused(place, one, found)
            return
        one.made = Made(place.digest, place.wanted, one.since_ms, dumped(found.reference))
        one.rows = one.fitting = None
        facts = {
            **_facts(place),
            "reference": found.reference.id,
            "features": len(found.features),
            "left": [each.name for each in found.left][:20],
            "notes": list(found.warnings),
        }
        _log.info("monitor_reference_made", extra={"facts": facts})

    async def _keep(self, place: Place, one: Collecting) -> None:
        """Write it beside the model's others; who was overtaken by another node looks again."""
        assert one.made is not None, "asked before"
        served = {(other.digest, other.wanted) for other in self._served | self._asked}
        known = {key: made for key, (made, _) in self._kept[place.name].items()}
        body = _body({**known, (place.digest, place.wanted): one.made}, served)
        try:
            await self._store.put(KIND, place.name, body, expected=self._revisions[place.name])
        except (Stale, StoreAway):
            return  # the next round looks, and tries again if it is not there
        except ValueError as error:
            self._refused(place, one, f"the store has no room for it: {str(error)[:200]}")
            one.made = None


def _fitted(rows: FirstRows, file: Path, choices: Choices) -> Fitted | str:
    """A reference, or why there is none. It is work: call it in a thread."""
    try:
        return rows.fitted(sha256_of(file), choices)
    except (ReferenceRefused, OSError) as error:
        return str(error)
    except Exception as error:  # rows are anybody's, and this model's monitor is not the only one
        return in_words(error)


def _body(made: dict[tuple[str, int], Made], served: set[tuple[str, int]]) -> bytes:
    """References as they are kept, the oldest first; of those that are not served as many as there is room for."""
    kept = dict(made)
    while True:
        body = msgspec.msgpack.encode(list(kept.values()))
        spare = next((key for key in kept if key not in served), None)
        if spare is None or (len(kept) <= KEPT and len(body) <= Limits().body_bytes):
            return body
        del kept[spare]


def _read(name: str, body: bytes) -> list[Made]:
    try:
        return msgspec.msgpack.decode(body, type=list[Made])
    except msgspec.MsgspecError as error:
        _unreadable(name, str(error))
        return []


def _unreadable(name: str, why: str) -> None:
    """What cannot be read is made anew."""
    _log.error("monitor_first_unreadable", extra={"facts": {"model": name, "reason": why[:200]}})


def _facts(place: Place) -> dict[str, object]:
    return {"model": place.name, "version": place.version, "rows": place.wanted}
