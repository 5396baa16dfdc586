"""What came back for predictions: into the ledger, and to the experiments that wait for it.

A row that the ledger has acknowledged is not lost, and sending a body again is harmless: rows are known by prediction
and slot, and experiments keep rewards the same way. So a failure on the way is answered 503, and the caller repeats.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.control.experimentbook import Experiments
from gateway.control.labelnotes import note_of
from gateway.control.policies import Policies
from gateway.control.revisions import Revisions
from gateway.control.rewards import Reward, row_key
from gateway.control.study import Study, place_of, same_digest
from gateway.decisionfiles import keyed_prediction
from gateway.feedback import LABEL_SLOT, REWARD_SLOT
from gateway.keys import Actor
from gateway.store.base import Feedback, FeedbackOutcome, Store, StoreAway
from gateway.tally import NOTED_UNIT
from gateway.unitkeys import unit_text

KEEP_MS: Final = 90 * 86_400_000
"""From the prediction on, feedback is kept for 90 days: a loan that is one quarter old has shown how it goes."""
MOST_TOLD: Final = 100
"""Replaced values that one audit record lists; all are counted."""
_ROWS: Final = 1_000
_RETRY_S: Final = 2.0
_ORDER: Final = ("replaced", "new", "expired", "duplicate")

Facts = Mapping[str, Any]


class FeedbackDesk:
    """Takes feedback.

    Args:
        node: this node's name.
        loaded: (model name, digest) of every version that is wanted here.
        watched: whether a model's monitor wants to hear of labels; None, or gives None = not known yet, and nothing is
            taken.
    """

    def __init__(
        self,
        store: Store,
        policies: Policies,
        experiments: Experiments,
        *,
        node: str,
        now_ms: Callable[[], int],
        loaded: Callable[[], Iterable[tuple[str, str]]],
        watched: Callable[[str], bool | None] | None = lambda name: False,
    ) -> None:
        self.watched = watched
        self._store = store
        self._policies = policies
        self._experiments = experiments
        self._revisions = Revisions(store, policies)
        self._node = node
        self._now_ms = now_ms
        self._loaded = loaded
        self._epoch = now_ms()
        self._sequence = 0
        self._locks: dict[str, asyncio.Lock] = {}

    async def take(self, items: Sequence[Facts], actor: str, models: Sequence[str]) -> list[str]:
        """Keep the items; what became of each, one of `gateway.feedback.OUTCOMES`.

        Args:
            items: as `gateway.feedback.facts_of` makes them: their ids are genuine.
            models: globs of models that the sender may speak of; none = all.

        Raises:
            StoreAway: some may have been kept; sending all again is harmless.
        """
        covers = Actor(actor, frozenset(), models=tuple(models)).covers
        outcomes = ["unknown_model"] * len(items)
        by_model: dict[str, list[int]] = {}
        owners: dict[tuple[Any, ...], str] = {}
        for at, item in enumerate(items):
            key = (item["digest"], item["revision"], item["variant"], item["model"])
            name = owners[key] if key in owners else owners.setdefault(key, self._model_of(item))
            if name and not covers(name):
                outcomes[at] = "forbidden"
            elif name:
                by_model.setdefault(name, []).append(at)
        try:
            for name, places in by_model.items():
                # One at a time, so that the stream has the order of the ledger and the last value wins in both.
                async with self._locks.setdefault(name, asyncio.Lock()):
                    found = await self._keep(name, [items[at] for at in places], actor)
                for at, outcome in zip(places, found, strict=True):
                    outcomes[at] = outcome
        except StoreAway as error:
            raise StoreAway(error.message, retry_after_s=_RETRY_S) from error
        return outcomes

    def _model_of(self, item: Facts) -> str:
        """The policy whose prediction it was; "" = nobody's, or several could be meant."""
        names = {name for name, digest in self._versions() if same_digest(digest, item["digest"])}
        if item["model"]:
            return item["model"] if item["model"] in names else ""
        if len(names) > 1:
            names = {name for name in names if self._is_of(name, item)} or names
        return names.pop() if len(names) == 1 else ""

    def _versions(self) -> Iterable[tuple[str, str]]:
        for name, kept in self._policies.kept.items():
            yield from ((name, pin.digest) for pin in kept.record.variants)
        for name in self._experiments.names():
            study = self._experiments.study(name)
            assert study is not None, "it was named"
            yield from ((name, digest) for epoch in study.epochs.values() for digest in epoch.digests)
        yield from self._loaded()

    def _is_of(self, name: str, item: Facts) -> bool:
        """Whether this policy has sent, or may have sent, such a request to a variant of this digest."""
        kept = self._policies.kept.get(name)
        if kept is None or item["revision"] > kept.record.revision:
            return False
        pins = kept.record.variants
        return item["variant"] < len(pins) and same_digest(pins[item["variant"]].digest, item["digest"])

    # ---- keeping ----

    async def _keep(self, name: str, items: Sequence[Facts], actor: str) -> list[str]:
        watched = self.watched(name) if self.watched is not None else None
        if not self._experiments.loaded or watched is None:
            raise StoreAway("what experiments and monitors there are is not known yet")
        rows = [(item, slot, value) for item in items for slot, value in item["slots"].items()]
        told: list[FeedbackOutcome] = []
        for at in range(0, len(rows), _ROWS):
            part = [_row(*row, await self._note(name, *row) if watched else b"") for row in rows[at : at + _ROWS]]
            told += await self._store.feedback_put(name, part, notes=f"labels/{name}" if watched else "")
        # Before what may fail: who sends all again replaces nothing any more.
        await self._tell(name, rows, told, actor)
        study = self._experiments.study(name)
        if study is not None:
            kept = [row for row, outcome in zip(rows, told, strict=True) if outcome.kind != "expired"]
            await self._experiments.put(name, list(_rewards(study, kept, self._now_ms())), self.append)
        return _by_item(items, told)

    async def _note(self, name: str, item: Facts, slot: str, value: Any) -> bytes:
        """What the monitor is told of a label; b"" = it is none."""
        if slot != LABEL_SLOT:
            return b""
        return note_of(item, await self._revisions.variant(name, item), value, self._now_ms() / 1_000)

    async def append(self, stream: str, body: bytes) -> None:
        """An entry of this node's in a stream. Raises StoreAway."""
        self._sequence += 1
        await self._store.stream_append(stream, self._node, self._epoch, self._sequence, body)

    async def _tell(self, name: str, rows: Sequence[Any], told: Sequence[FeedbackOutcome], actor: str) -> None:
        """The audit trail hears of values that were replaced."""
        replaced = [row for row, outcome in zip(rows, told, strict=True) if outcome.kind == "replaced"]
        if replaced:
            shown = [_shown(self._policies.unit_key, item, slot) for item, slot, _ in replaced[:MOST_TOLD]]
            record = {"actor": actor, "what": "feedback_replaced", "reason": "", "count": len(replaced)}
            await self._policies.note(name, {**record, "replaced": shown})


def _shown(key: bytes, item: Facts, slot: str) -> dict[str, Any]:
    # The trail cannot be cut, and an erasure has to reach values and the unit, which an id holds: neither stands there.
    found = {"prediction": keyed_prediction(key, item["id"].encode()), "slot": slot}
    return found if item["row"] is None else {**found, "row": item["row"]}


def _id_of(item: Facts) -> str:
    return item["id"] if item["row"] is None else f"{item['id']}/{item['row']}"


def _row(item: Facts, slot: str, value: Any, note: bytes) -> Feedback:
    body = {"value": value} if item["at_s"] is None else {"value": value, "at_s": item["at_s"]}
    expires_ms = item["time_s"] * 1_000 + KEEP_MS
    return Feedback(_id_of(item), slot, unit_text(item["unit"]), msgspec.json.encode(body), expires_ms, note)


def _rewards(study: Study, rows: Iterable[tuple[Facts, str, Any]], now_ms: int) -> Iterable[Reward]:
    """What the experiment wants of these rows, also of those that were there before: a call may have failed midway."""
    goals = {f"{REWARD_SLOT}{goal.name}": goal.name for goal in study.goals}
    for item, slot, value in rows:
        place = place_of(study, item) if slot in goals else None
        if place is None:
            continue
        at_s = now_ms / 1_000 if item["at_s"] is None else item["at_s"]
        yield Reward(
            goal=goals[slot],
            epoch=place[0],
            stratum=place[1],
            variant=item["variant"],
            unit=item["unit"] & NOTED_UNIT,
            row=row_key(item["id"], item["row"]),
            value=float(value),
            delay_s=max(0, int(at_s - item["time_s"])),
        )


def _by_item(items: Sequence[Facts], told: Sequence[FeedbackOutcome]) -> list[str]:
    """One word for each item: of its slots the most telling."""
    found: list[str] = []
    at = 0
    for item in items:
        kinds = {outcome.kind for outcome in told[at : at + len(item["slots"])]}
        at += len(item["slots"])
        found.append(next(kind for kind in _ORDER if kind in kinds))
    return found
