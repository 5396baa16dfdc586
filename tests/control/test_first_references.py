"""References from first rows, on a real store: made once, kept beyond a restart, shared by nodes, bounded."""

import asyncio
import hashlib
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from gateway.control.firstreferences import KEPT, KIND, FirstReferences, Made, _body
from gateway.control.messages import WantedModel
from gateway.control.monitorheld import Progress
from gateway.monitor.firsttap import FirstTap
from gateway.monitor.reference import Reference
from gateway.monitor.settings import Groups, Multivariate, ReferenceFrom, Spec, Window
from gateway.store.sqlite import open_sqlite
from runtimes.batching.job import Job
from runtimes.registry.modelconfig import ModelConfig
from tests.monitor.counting_models import signature, spec

ROWS = 2_000
SPEC = Spec(reference=ReferenceFrom(first=ROWS), window=Window(rows=200))
CONTENT = b"a model"


def model_in(folder: Path, version: int = 1) -> WantedModel:
    (folder / "model.onnx").write_bytes(CONTENT)
    return WantedModel("m", version, f"sha256:{version}", str(folder), "model.onnx", ModelConfig())


def part_of(rows: int, width: int = 1) -> bytes:
    tap, rng = FirstTap(signature(spec("x", "FP32", width)), rows), np.random.default_rng(rows)
    tap.take([Job()], [rng.normal(size=(rows, width)).astype(np.float32)], [rng.random((rows, 1)).astype(np.float32)])
    part = tap.part()
    assert part is not None
    return part


async def until_made(firsts: FirstReferences, model: WantedModel, wanted: Spec) -> Reference:
    """Rounds of control until there is a reference."""
    while True:
        found, problem = await firsts.find(model, wanted)
        assert not problem
        if found is not None:
            return found
        firsts.collected()
        await asyncio.gather(*(one.fitting for one in firsts._collecting.values() if one.fitting is not None))


def test_its_features_are_looked_at_together_where_that_is_asked_for(tmp_path: Path) -> None:
    async def scene() -> None:
        store, model = await open_sqlite(tmp_path / "store.db"), model_in(tmp_path)
        firsts = FirstReferences(store, now_ms=lambda: 1_000)
        await firsts.find(model, SPEC)
        firsts.collected()
        assert firsts.take("m", 1, 1_000, part_of(1_024, width=3)) == ROWS - 1_024
        assert firsts.take("m", 1, 1_000, part_of(1_000, width=3)) == 0
        alone = await until_made(firsts, model, SPEC)
        together, _ = await firsts.find(model, replace(SPEC, multivariate=Multivariate()))
        assert together is not None
        assert (alone.plan.multivariate, together.plan.features[-1].kind) == (None, "multivariate")
        await store.close()

    asyncio.run(scene())


def test_a_reference_is_made_kept_and_found_by_whoever_comes_later(tmp_path: Path) -> None:
    async def scene() -> None:
        store, model = await open_sqlite(tmp_path / "store.db"), model_in(tmp_path)
        clock = [1_000]
        firsts = FirstReferences(store, now_ms=lambda: clock[0])
        assert await firsts.find(model, SPEC) == (None, "")
        assert firsts.progress("m") == {"1": Progress(0, ROWS, 1.0)}
        [wanted] = firsts.collected()
        assert (wanted.name, wanted.digest, wanted.rows, wanted.since_ms) == ("m", model.digest, ROWS, 1_000)
        assert firsts.take("m", 1, 999, part_of(5)) == 0, "of a control before this one"
        assert firsts.take("m", 1, 1_000, part_of(500)) == 1_500
        clock[0] = 5_000
        await firsts.find(model, SPEC)
        assert firsts.progress("m") == {"1": Progress(500, ROWS, 1.0)}
        assert firsts.take("m", 1, 1_000, part_of(2_000)) == 0
        found = await until_made(firsts, model, SPEC)
        assert (found.rows, found.origin, found.provisional, found.labels) == (ROWS, "first", True, None)
        assert found.binding.digest == hashlib.sha256(CONTENT).hexdigest()
        assert firsts.progress("m") == {"1": Progress(ROWS, ROWS, 1.0)}
        assert firsts.collected() == ()
        assert firsts.take("m", 1, 1_000, part_of(5)) == 0
        # Another node, or the next control: with the groups of its settings.
        later = FirstReferences(store, now_ms=lambda: clock[0])
        again, problem = await later.find(model, SPEC)
        assert again is not None
        assert (again.id, problem, later.progress("m")) == (found.id, "", {"1": Progress(ROWS, ROWS, 1.0)})
        grouped = Spec(reference=SPEC.reference, window=SPEC.window, groups=Groups(header="x-group", values=("a",)))
        assert (await later.find(model, grouped))[0].plan.groups == ("a",)  # type: ignore[union-attr]
        # Other bytes or another number begin anew; so does a document that was removed.
        assert await later.find(model_in(tmp_path, 2), SPEC) == (None, "")
        assert await later.find(model, Spec(reference=ReferenceFrom(first=3_000), window=SPEC.window)) == (None, "")
        await store.delete(KIND, "m", expected=None)
        assert await later.find(model, SPEC) == (None, "")
        await store.close()

    asyncio.run(scene())


def test_of_two_nodes_the_first_writes_and_both_count_by_it(tmp_path: Path) -> None:
    async def scene() -> None:
        store, model = await open_sqlite(tmp_path / "store.db"), model_in(tmp_path)
        nodes = [FirstReferences(store, now_ms=lambda: 1_000) for _ in range(2)]
        for number, node in enumerate(nodes):
            await node.find(model, SPEC)
            node.collected()
            assert node.take("m", 1, 1_000, part_of(ROWS + number)) == 0
        # Both are full; the second is the first to write.
        second = await until_made(nodes[1], model, SPEC)
        first = await until_made(nodes[0], model, SPEC)
        assert first.id == second.id
        assert nodes[0]._collecting == nodes[1]._collecting == {}, "their rows are forgotten"
        await store.close()

    asyncio.run(scene())


def test_what_has_no_room_is_refused_in_words_and_forgotten(tmp_path: Path) -> None:
    async def scene() -> None:
        store, model = await open_sqlite(tmp_path / "store.db"), model_in(tmp_path)
        firsts = FirstReferences(store, now_ms=lambda: 1_000)
        await firsts.find(model, SPEC)
        assert firsts.take("m", 1, 1_000, part_of(1, 10_000)) == 0
        found, problem = await firsts.find(model, SPEC)
        assert found is None
        assert problem.startswith("reference from the first 2,000 rows: 2,000 rows of 40,004 bytes each take 76.3 MiB")
        assert (firsts.collected(), firsts.progress("m")) == ((), {})
        # All versions together have a bound as well.
        firsts = FirstReferences(store, now_ms=lambda: 1_000, most_bytes=20_000)
        other = model_in(tmp_path, 2)
        for one in (model, other):
            await firsts.find(one, SPEC)
        assert firsts.take("m", 2, 1_000, part_of(5, 1)) == 1_995
        third = model_in(tmp_path, 3)
        await firsts.find(third, SPEC)
        assert firsts.take("m", 3, 1_000, part_of(5, 1)) == 0
        assert "no room beside the first rows of other versions" in (await firsts.find(third, SPEC))[1]
        assert firsts.take("m", 2, 1_000, part_of(5, 1)) == 1_990, "the others go on"
        # What nobody asks for any more is forgotten.
        firsts.collected()
        firsts.collected()
        assert firsts._collecting == {}
        await store.close()

    asyncio.run(scene())


def test_references_of_versions_that_are_not_served_make_room() -> None:
    made = {(f"d{at}", ROWS): Made(f"d{at}", ROWS, at, bytes(100_000)) for at in range(20)}
    served = {("d0", ROWS), ("d19", ROWS)}
    assert len(_body(made, served)) <= KEPT * 100_000 + 1_000
    assert all(f"d{at}".encode() in _body(made, served) for at in (0, 13, 19))
    assert b"d12" not in _body(made, served)
    assert len(_body(made, set(made))) > 2_000_000, "the store refuses it, in words"
