"""What is held about one unit: finding it and erasing it, in the decision log, the store and samples of shadows.

A unit is found by its keyed hash under the salt of each document that the policy ever had: the salt may have changed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.control.auditor import Auditor
from gateway.control.decisionlog import DecisionLines
from gateway.control.documents import parsed
from gateway.control.policies import Policies
from gateway.control.record import KIND
from gateway.control.shadowsamples import ShadowSamples
from gateway.decisionfiles import keyed_prediction
from gateway.decisions import FLUSH_S
from gateway.unitkeys import keyed, unit_text
from router.hashing import placer
from runtimes.errors import InvalidInput

_PAGE: Final = 200
KEEPS: Final = (
    "the audit trail: names of keys, counts, reasons as written, ids of requests that failed on a canary, keyed hashes "
    "of predictions whose feedback was replaced; no value of feedback, no unit but what documents name",
    "documents of policies and monitors, in force and in the audit trail: as written, units too that a rule names",
    "the evidence of a rollout step under way: keyed hashes of a sample of units, dropped when the step ends",
    "streams in the store, of rewards and between nodes: keyed hashes, dropped by their bound",
    "requests of the last second, and feedback that comes later: experiments may count them; erase again",
    "backups of the store made before now",
    "files of the decision log on other nodes: ask each of them",
    "lines of the decision log that wait on a node that cannot reach the store: erase again when it is back",
    "samples of shadows on other nodes: ask each of them",
    "samples of requests that take more than a minute, or where control was started anew meanwhile: erase again",
)
"""Where a unit cannot be erased from, or not by this call."""

Forgetter = Callable[[str, int], Awaitable[bool]]
"""Model, keyed hash of a unit -> whether there was anything of it."""


class DataDesk:
    """For one node.

    Attributes:
        forgetters: others that hold something by unit, told of each erasure.
    """

    def __init__(self, policies: Policies, auditor: Auditor, lines: DecisionLines, samples: ShadowSamples) -> None:
        self._policies = policies
        self._store = policies.store
        self._auditor = auditor
        self._lines = lines
        self._samples = samples
        self.forgetters: list[Forgetter] = []

    async def find_prediction(self, text: str) -> dict[str, Any]:
        """What an id says, the lines about it, and the records that made the revision that answered. Raises
        InvalidInput: it is no id of ours; StoreAway."""
        found, name = self._auditor.predicted(text)
        wanted = keyed_prediction(self._policies.unit_key, found.id.encode())
        lines = await self._lines.find(lambda line: line.get("prediction") == wanted, wanted.encode())
        return {
            "model": name,
            "digest": found.digest,
            "revision": found.revision,
            "variant": found.variant,
            "time_s": found.time_s,
            "decisions": lines,
            "log": self._lines.written,
        }

    async def find_unit(self, model: str, unit: str) -> dict[str, Any]:
        """The last lines about a unit, and where lines are written now. Raises InvalidInput: no policy of this model is
        known; StoreAway."""
        found: list[dict[str, Any]] = []
        for number in await self._hashes(model, unit):
            wanted = unit_text(number)
            found += await self._lines.find(_about(model, wanted), wanted.encode())
        return {"decisions": sorted(found, key=lambda line: int(line["time_ms"])), "log": self._lines.written}

    async def forget(self, model: str, unit: str, actor: str) -> dict[str, Any]:
        """Erase a unit; what was erased, and where it cannot be. Told in the audit trail without the unit.

        Raises:
            InvalidInput: no policy of this model is known.
            StoreAway: nothing, or not all, was erased; ask again.
        """
        numbers = await self._hashes(model, unit)
        rows = others = lines = samples = 0
        for number in numbers:
            samples += self._samples.forget(model, number)
            rows += await self._store.feedback_erase(model, unit_text(number))
            for forgetter in self.forgetters:
                others += await forgetter(model, number)
        for turn in range(2):
            if turn:
                # What workers held in their buffers meanwhile is written by then.
                await asyncio.sleep(2 * FLUSH_S)
            for number in numbers:
                wanted = unit_text(number)
                lines += await self._lines.forget(_about(model, wanted), wanted.encode())
        erased = {
            "feedback_rows": rows,
            "experiment_entries": others,
            "decision_lines": lines,
            "shadow_samples": samples,
        }
        await self._policies.note(model, {"actor": actor, "what": "forget", "reason": "", **erased})
        return {"erased": erased, "not_erased": list(KEEPS)}

    async def _hashes(self, model: str, unit: str) -> list[int]:
        """Keyed hashes of a unit under every salt that the policy ever had."""
        salts: dict[tuple[str, str], None] = {}
        cursor: str | None = None
        while True:
            of_policy = {"kind": KIND}  # a Monitor of this name has records, too
            page = await self._store.audit_read(model, after=cursor, limit=_PAGE, newest=True, where=of_policy)
            for record in page.records:
                if "document" in record.record:
                    policy = parsed(record.record["document"])
                    salts[policy.spec.unit.hash, policy.salt] = None
            cursor = page.cursor
            if cursor is None:
                break
        if not salts:
            raise InvalidInput(f"model: no policy of {model[:128]!r} is in the audit trail, so no unit was ever kept")
        known = keyed(self._policies.unit_key, model)
        return [known(placer(name, salt)(unit.encode())[1]) for name, salt in salts]


def _about(model: str, unit: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line.get("model") == model and line.get("unit") == unit
