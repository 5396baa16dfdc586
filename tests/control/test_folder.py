"""The watched folder: whose policy is it, when is a file read, what does a bad one do. Real files, a real store."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.control.documents import Kept
from gateway.control.folder import AGAIN_S, FILE_BYTES, MONITOR, MOST_FILES, POLICY, DocumentFolder, scan
from gateway.control.keepers import PolicyKeeper
from gateway.control.plans import past_freezes
from gateway.control.policies import Policies
from gateway.store.sqlite import open_sqlite
from runtimes.errors import Conflict

TEXT = """\
apiVersion: tidegate/v1
kind: TrafficPolicy
metadata: {name: NAME}
spec:
  variants: [{name: stable, model: "NAME:1"}, {name: canary, model: "NAME:2"}]
  unit: {from: [{header: x-user-id}]}
  split: {stable: 9000, canary: 1000}
"""


def text(name: str = "m", canary: int = 1000) -> str:
    return TEXT.replace("NAME", name).replace("9000", str(10_000 - canary)).replace("1000}", f"{canary}}}")


class Shelf:
    """Versions that can be had; an edge of the policies."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    async def pin(self, name: str, reference: str) -> tuple[int, str]:
        if reference in self.missing:
            raise Conflict(f"not_ready: {reference} is not in the repository")
        return int(reference.partition(":")[2]), f"sha256:{reference}"

    def contract(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        return ("x FP32 [-1,2]",), ("y FP32 [-1,2]",)


class Desk:
    """A folder, and what follows it, with a clock that tests turn."""

    def __init__(self, place: Path, policies: Policies, shelf: Shelf) -> None:
        self.place = place
        self.policies = policies
        self.shelf = shelf
        self.now_s = 100.0
        (place / "folder").mkdir(exist_ok=True)
        self.folder = self.fresh()

    def fresh(self) -> DocumentFolder:
        """As after a restart."""

        async def here(work: Callable[..., Any], *args: object) -> Any:
            return work(*args)

        keepers = {POLICY: PolicyKeeper(self.policies, self.warned), MONITOR: None}
        return DocumentFolder(
            self.place / "folder",
            keepers,
            self.place,
            in_thread=here,
            restored=lambda: self.policies.restored,
            now_s=lambda: self.now_s,
        )

    async def warned(self, kept: Kept) -> list[str]:
        return past_freezes(kept.policy, self.policies.now_ms())

    def write(self, file: str, content: str) -> None:
        temporary = self.place / "next"
        temporary.write_text(content)
        temporary.rename(self.place / "folder" / file)

    def remove(self, file: str) -> None:
        (self.place / "folder" / file).unlink()

    async def settle(self) -> None:
        """Two looks: a file counts when it has stayed the same."""
        for _ in range(2):
            self.now_s += 1
            await self.folder.look()

    def owner(self, name: str = "m") -> str:
        return self.policies.kept[name].record.owner

    def generation(self, name: str = "m") -> int:
        return self.policies.kept[name].record.generation

    def problems(self) -> dict[str, str]:
        return {one["file"]: one["problem"] for one in self.folder.shown()["files"] if one["problem"]}

    async def restore(self, backup: Path) -> None:
        """As control begins anew after a backup was restored."""
        store = self.policies.store
        await store.restore(backup, aside=backup.with_suffix(".aside"))
        self.policies = Policies(store, self.shelf, self.place, now_ms=lambda: 1, changed=lambda: None)
        await self.policies.open()
        self.folder = self.fresh()


@asynccontextmanager
async def desk(place: Path) -> AsyncIterator[Desk]:
    store = await open_sqlite(place / "store.db")
    shelf = Shelf()
    policies = Policies(store, shelf, place, now_ms=lambda: 1, changed=lambda: None)
    await policies.open()
    try:
        yield Desk(place, policies, shelf)
    finally:
        await store.close()


def play(place: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        async with desk(place) as one:
            await story(one)

    asyncio.run(run())


def test_a_file_is_applied_once_it_has_stayed_the_same(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.folder.look()
        assert "m" not in desk.policies.kept
        desk.write("a.yaml", text(canary=2000))
        await desk.folder.look()
        assert "m" not in desk.policies.kept
        await desk.folder.look()
        assert desk.policies.kept["m"].policy.counts() == [8000, 2000]
        assert (desk.owner(), desk.policies.kept["m"].record.applied_by) == ("file:a.yaml", "file:a.yaml")
        await desk.settle()
        assert desk.generation() == 1

    play(tmp_path, story)


def test_what_belongs_to_a_file_is_changed_there(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        document = desk.policies.kept["m"].record.document
        with pytest.raises(Conflict, match=r"belongs to 'a.yaml'"):
            await desk.policies.apply(document, actor="ann")
        with pytest.raises(Conflict, match=r"belongs to 'a.yaml'"):
            await desk.policies.delete("m", actor="ann")
        killed = await desk.policies.kill("m", "canary", True, actor="ann", reason="smoke")
        assert killed.record.killed == ("canary",)
        assert desk.owner() == "file:a.yaml"

    play(tmp_path, story)


BAD = {
    "a typo": (text().replace("split", "spilt"), "line 7: spec.spilt: unknown field"),
    "cut off": (text()[:120], "line "),
    "empty": ("", "expected a mapping"),
    "another schema": (text().replace("tidegate/v1", "tidegate/v9"), "apiVersion"),
    "too long": (text() + "#" * FILE_BYTES, "longer than 65,536 bytes"),
    "an alias bomb": ("a: &a [1]\nb: [*a, *a]\n", "line 1: anchors"),
}


@pytest.mark.parametrize(("content", "told"), BAD.values(), ids=BAD)
def test_a_bad_file_keeps_the_policy_and_says_why_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, told: str
) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        before = desk.policies.kept["m"]
        desk.write("a.yaml", content)
        for _ in range(3):
            await desk.settle()
        assert desk.policies.kept["m"] is before
        assert told in desk.problems()["a.yaml"]
        assert told in desk.folder.problem_of(POLICY, "m")
        assert desk.folder.refused == 1
        assert len([one for one in caplog.records if one.message == "policy_file_refused"]) == 1
        desk.write("a.yaml", text(canary=3000))
        await desk.settle()
        assert desk.problems() == {}
        assert desk.policies.kept["m"].policy.counts() == [7000, 3000]

    play(tmp_path, story)


def test_a_version_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.shelf.missing.add("m:2")
        desk.write("a.yaml", text())
        await desk.settle()
        assert "m:2 is not in the repository" in desk.problems()["a.yaml"]
        desk.shelf.missing.clear()
        await desk.folder.look()
        assert "m" not in desk.policies.kept
        desk.now_s += AGAIN_S
        await desk.folder.look()
        assert desk.owner() == "file:a.yaml"
        assert desk.problems() == {}

    play(tmp_path, story)


def test_two_files_about_one_model_are_both_refused(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        desk.write("b.yaml", text(canary=5000))
        desk.write("c.yaml", text("other"))
        await desk.settle()
        assert desk.problems()["a.yaml"].startswith("b.yaml is about 'm' too")
        assert desk.problems()["b.yaml"].startswith("a.yaml is about 'm' too")
        assert (desk.owner(), desk.generation()) == ("file:a.yaml", 1)
        assert desk.owner("other") == "file:c.yaml"
        desk.remove("a.yaml")
        await desk.settle()
        assert desk.problems() == {}
        assert (desk.owner(), desk.generation()) == ("file:b.yaml", 2)

    play(tmp_path, story)


def test_a_removed_file_leaves_its_policy_to_nobody(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        desk.remove("a.yaml")
        await desk.settle()
        assert desk.owner() == ""
        assert desk.policies.kept["m"].policy.counts() == [9000, 1000]
        page = await desk.policies.store.audit_read("m", newest=True)
        assert page.records[0].record["what"] == "orphan"
        await desk.policies.delete("m", actor="ann")

    play(tmp_path, story)


def test_a_file_removed_while_the_server_was_down_is_missed(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        desk.remove("a.yaml")
        desk.folder = desk.fresh()
        await desk.settle()
        assert desk.owner() == ""

    play(tmp_path, story)


def test_the_file_of_another_nodes_folder_is_not_missed(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        (tmp_path / "folder.state").unlink()
        desk.remove("a.yaml")
        desk.folder = desk.fresh()
        await desk.settle()
        assert desk.owner() == "file:a.yaml"

    play(tmp_path, story)


def test_a_folder_that_cannot_be_read_removes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        (tmp_path / "folder").rename(tmp_path / "elsewhere")
        await desk.settle()
        assert desk.owner() == "file:a.yaml"
        assert "cannot be read" in desk.folder.shown()["problem"]
        assert desk.folder.refused == 1
        assert len([one for one in caplog.records if one.message == "policy_folder_away"]) == 1
        (tmp_path / "elsewhere").rename(tmp_path / "folder")
        await desk.settle()
        assert desk.folder.refused == 0

    play(tmp_path, story)


def test_a_file_that_a_restored_backup_does_not_know_is_applied_again(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        desk.write("n.yaml", text("n"))
        await desk.settle()
        await desk.policies.store.backup(tmp_path / "then")
        desk.write("a.yaml", text(canary=2000))
        await desk.settle()
        await desk.restore(tmp_path / "then")
        assert desk.policies.kept["m"].policy.counts() == [9000, 1000]
        await desk.settle()
        assert desk.policies.kept["m"].policy.counts() == [8000, 2000]
        assert desk.generation("n") == 1, "the backup knows of it"

    play(tmp_path, story)


def test_a_rollback_that_a_restored_backup_knows_stays_one(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        desk.write("a.yaml", text(canary=2000))
        await desk.settle()
        await desk.policies.rollback("m", None, actor="ada", reason="too many")
        await desk.policies.store.backup(tmp_path / "then")
        await desk.restore(tmp_path / "then")
        await desk.settle()
        assert desk.policies.kept["m"].policy.counts() == [9000, 1000]

    play(tmp_path, story)


def test_a_rollback_stays_one_after_a_restart(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        desk.write("a.yaml", text(canary=5000))
        await desk.settle()
        await desk.policies.rollback("m", None, actor="ann", reason="too much")
        assert desk.policies.kept["m"].policy.counts() == [9000, 1000]
        desk.folder = desk.fresh()
        await desk.settle()
        assert desk.policies.kept["m"].policy.counts() == [9000, 1000]
        desk.write("a.yaml", text(canary=6000))
        await desk.settle()
        assert desk.policies.kept["m"].policy.counts() == [4000, 6000]

    play(tmp_path, story)


def test_a_file_that_is_about_another_model_now_lets_go_of_the_first(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        desk.write("a.yaml", text("other"))
        await desk.settle()
        assert (desk.owner(), desk.owner("other")) == ("", "file:a.yaml")

    play(tmp_path, story)


# ---- which files ----


def test_links_that_lead_out_are_not_followed_and_those_of_a_mounted_volume_are(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "..data").mkdir(parents=True)
    (folder / "..data" / "in.yaml").write_text(text())
    (folder / "in.yaml").symlink_to("..data/in.yaml")
    (tmp_path / "secret.yaml").write_text("password: 1\n")
    (folder / "out.yaml").symlink_to(tmp_path / "secret.yaml")
    (folder / "gone.yaml").symlink_to("nowhere.yaml")
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / ".hidden.yaml").write_text(text())
    (folder / "notes.txt").write_text("x")
    found = scan(folder)
    assert found["in.yaml"].text == text()
    assert found["out.yaml"].problem == "a link that leads out of the folder"
    assert (found["out.yaml"].text, found["gone.yaml"].text) == ("", "")
    assert found["gone.yaml"].problem.startswith("cannot be read")
    assert found["pipe.yaml"].problem == "not a file"
    assert found["folder.yaml"].problem in ("not a file", "cannot be read: Is a directory")
    assert sorted(found) == ["folder.yaml", "gone.yaml", "in.yaml", "out.yaml", "pipe.yaml"]


def test_a_name_that_is_no_text_is_told_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in (b"\xff.yaml", b"a\n.yaml"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"folder", name))).write_text(text("other"))

    async def story(desk: Desk) -> None:
        desk.write("a.yaml", text())
        await desk.settle()
        assert desk.owner() == "file:a.yaml"
        assert set(desk.problems()) == {"\\udcff.yaml", "a\\n.yaml"}
        assert set(desk.problems().values()) == {"its name is not printable text"}
        assert "other" not in desk.policies.kept

    play(tmp_path, story)


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 2):
        (tmp_path / f"{number:05}.yaml").touch()
    found = scan(tmp_path)
    assert [one.problem for one in found.values() if one.problem] == ["the folder has more than 1,000 files"] * 2
    for number in range(MOST_FILES):
        (tmp_path / f"more-{number:05}.yaml").touch()
    with pytest.raises(OSError, match="more than 2,000 files"):
        scan(tmp_path)


FROZEN = """\
  rollout:
    to: canary
    steps: [{setWeight: 1000, hold: {minUnits: 500}}, {setWeight: 10000}]
    window: {freeze: [{from: "1969-12-30T00:00:00Z", until: "1969-12-31T00:00:00Z"}]}
"""


def test_what_is_most_likely_a_slip_is_told_of_a_file_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        desk.write("m.yaml", text(canary=0).replace(", canary: 0", "") + FROZEN)
        await desk.settle()
        (shown,) = desk.folder.shown()["files"]
        assert (shown["problem"], ["was over at" in one for one in shown["warnings"]]) == ("", [True])
        await desk.settle()
        assert [one.message for one in caplog.records].count("policy_file_warns") == 1
        desk.folder = desk.fresh()
        await desk.settle()
        assert desk.folder.shown()["files"] == [shown], "also after a start"
        desk.write("m.yaml", text())
        await desk.settle()
        assert desk.folder.shown()["files"][0]["warnings"] == []

    play(tmp_path, story)
