"""Ids of audit records mean the same in both stores: one record, and the one before it of the same policy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.control.auditor import Auditor, UnknownRecord, Wanted
from gateway.control.datadesk import DataDesk
from gateway.control.decisionlog import DecisionLines
from gateway.control.shadowsamples import ShadowSamples
from gateway.store.base import Store
from tests.store.places import Place, on_a_store


def kill(before: int) -> dict[str, Any]:
    return {"actor": "a", "what": "kill", "reason": "", "revision_before": before, "revision_after": before + 1}


def document(kind: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "tidegate/v1", "kind": kind, "metadata": {"name": "m"}, "spec": spec}


@on_a_store()
async def test_a_unit_is_looked_for_under_the_salts_of_policies_whatever_monitors_the_model_has(
    store: Store, place: Place
):
    policies = cast(Any, SimpleNamespace(store=store, signing=(), unit_key=b"k" * 32, kept={}))
    samples = ShadowSamples(policies, now_ms=lambda: 0)
    desk = DataDesk(policies, Auditor(policies), DecisionLines(store, Path("no such folder")), samples)
    variants = [{"name": "stable", "model": "m:1"}, {"name": "canary", "model": "m:2"}]
    # A rollout without a guardrail is taken no longer, and its users have to be found all the same.
    rollout = {"to": "canary", "steps": [{"setWeight": 5_000}], "analysis": {"guardrails": []}}
    split = {"variants": variants, "split": {"stable": 10_000}, "rollout": rollout}
    for kind, name, spec in (("policy", "TrafficPolicy", split), ("monitor", "Monitor", {"window": {"rows": 500}})):
        audit = {"actor": "a", "what": "apply", "reason": "", "document": document(name, **spec)}
        await store.put(kind, "m", b"{}", expected=0, audit=audit)
    assert await desk.find_unit("m", "alice") == {"decisions": [], "log": "off"}


@on_a_store()
async def test_records_are_found_by_their_id_and_replayed(store: Store, place: Place):
    auditor = Auditor(cast(Any, SimpleNamespace(store=store, signing=(), kept={})))
    for number in range(3):
        for name in ("m", "n"):
            await store.put("policy", name, b"{}", expected=None, audit=kill(number + 1))
    page = await auditor.page(Wanted(name="n", fields={"what": "kill"}, newest=False))
    ids = [record["id"] for record in page["records"]]
    assert len(ids) == 3
    for at, text in enumerate(ids):
        chain, _, seq = text.rpartition("/")
        record = await auditor.get(chain, int(seq))
        assert (record.name, record.record["revision_before"]) == ("n", at + 1)
        assert (await auditor.replay(chain, int(seq)))["text"] == "same verdict"
    chain, _, seq = ids[-1].rpartition("/")
    await store.put("policy", "n", b"{}", expected=None, audit=kill(9))
    last = (await auditor.page(Wanted(name="n", limit=1)))["records"][0]["id"].rpartition("/")
    found = await auditor.replay(last[0], int(last[2]))
    assert found["text"] == "mismatch: revision before, by the record before: recorded 9, is 4"
    assert (await auditor.verify())["ok"]
    with pytest.raises(UnknownRecord):
        await auditor.get(chain, 999)
    with pytest.raises(UnknownRecord):
        await auditor.get("nowhere", 1)
