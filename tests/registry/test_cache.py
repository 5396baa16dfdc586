"""Private copies: what was hashed is what is loaded, and crashes and bounds leave whole entries."""

import hashlib
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.errors import LoadFailed
from runtimes.registry.cache import DEFAULT_LIMIT_BYTES, Entry, ModelCache, bound_bytes, to_evict
from runtimes.registry.directory import SeenVersion
from runtimes.registry.manifest import disagreement
from runtimes.registry.probe import ProbeResult
from tests.registry.places import Clock, seen, tree

MIB = 1024 * 1024


class Place:
    """A folder with versions, and a cache."""

    def __init__(self, tmp_path: Path) -> None:
        self.source = tmp_path / "source"
        self.root = tmp_path / "cache"
        self.clock = Clock()

    def version(self, content: bytes = b"graph", name: str = "1", **more: bytes) -> SeenVersion:
        folder = self.source / name
        for path, data in {"model.onnx": content, **more}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return seen(folder)

    def cache(self, limit_bytes: int | None = 100, onnxruntime: str = "1", free_bytes: int = 10**6) -> ModelCache:
        return ModelCache(
            self.root, limit_bytes, free_bytes=lambda: free_bytes, now_ns=self.clock, onnxruntime=onnxruntime
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith("tmp-")]


# ---- copies ----


def test_a_copy_is_named_by_its_content(place: Place) -> None:
    version = place.version(b"graph", **{"data/w.bin": b"weights"})
    copy = place.cache().store(version)
    lines = [("data/w.bin", b"weights"), ("model.onnx", b"graph")]
    text = "".join(f"{path}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\n" for path, data in lines)
    assert copy.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert copy.directory == str(place.root / copy.digest.replace(":", "-") / "files")
    assert (copy.file, copy.size_bytes) == ("model.onnx", 12)
    assert tree(Path(copy.directory)) == dict(lines)
    assert all(file.stat().st_mode & 0o222 == 0 for file in Path(copy.directory).rglob("*") if file.is_file())
    assert leftovers(place.root) == []


def test_the_copy_stays_when_the_source_changes(place: Place) -> None:
    copy = place.cache().store(place.version(b"graph"))
    (place.source / "1" / "model.onnx").write_bytes(b"")
    shutil.rmtree(place.source)
    assert tree(Path(copy.directory)) == {"model.onnx": b"graph"}


def test_the_same_bytes_share_one_copy(place: Place) -> None:
    cache = place.cache()
    one, two = cache.store(place.version(name="1")), cache.store(place.version(name="2"))
    assert one == two
    assert cache.digests == {one.digest}
    assert cache.size_bytes == 5
    assert leftovers(place.root) == []


def test_swapped_weights_are_another_version(place: Place) -> None:
    cache = place.cache()
    one = cache.store(place.version(**{"weights.bin": b"1"}))
    two = cache.store(place.version(**{"weights.bin": b"2"}))
    assert one.digest != two.digest


def test_unchanged_files_are_not_read_again_after_a_restart(place: Place) -> None:
    version = place.version()
    copy = place.cache().store(version)
    shutil.rmtree(place.source)  # so that reading would fail
    assert place.cache().store(version) == copy


@pytest.mark.parametrize("change", ["ctime_ns", "mtime_ns", "inode", "device", "size"])
def test_any_sign_of_a_change_means_reading_again(place: Place, change: str) -> None:
    version = place.version()
    place.cache().store(version)
    (file,) = version.files
    shutil.rmtree(place.source)
    changed = replace(version, files=(replace(file, **{change: getattr(file, change) + 1}),))
    with pytest.raises(LoadFailed, match="fetch: no private copy could be made: No such file"):
        place.cache().store(changed)


def test_torn_records_mean_reading_again(place: Place) -> None:
    version = place.version()
    copy = place.cache().store(version)
    for record in (place.root / "seen").iterdir():
        record.write_bytes(record.read_bytes()[:-7])
    assert place.cache().store(version) == copy


def empty(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 0)


def test_a_damaged_copy_is_made_anew(place: Place) -> None:
    version = place.version(**{"w.bin": b"w"})
    copy = place.cache().store(version)
    for damage in (lambda path: path.unlink(), empty, shutil.rmtree):
        damage(Path(copy.directory) if damage is shutil.rmtree else Path(copy.directory) / "w.bin")
        assert place.cache().store(version) == copy
        assert tree(Path(copy.directory)) == {"model.onnx": b"graph", "w.bin": b"w"}


# ---- refusals ----


def test_a_file_that_changed_since_the_scan_is_refused(place: Place) -> None:
    version = place.version(b"graph")
    (place.source / "1" / "model.onnx").write_bytes(b"other")
    cache = place.cache()
    with pytest.raises(LoadFailed, match=r"'model\.onnx' changed while it was read") as failed:
        cache.store(version)
    assert failed.value.stage == "fetch"
    assert cache.digests == frozenset()
    assert leftovers(place.root) == []


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, lambda path: path.mkdir()])
def test_something_else_in_its_place_is_refused(place: Place, make) -> None:
    version = place.version()
    path = place.source / "1" / "model.onnx"
    path.unlink()
    make(path)
    with pytest.raises(LoadFailed, match=r"fetch: 'model\.onnx'"):
        place.cache().store(version)
    assert leftovers(place.root) == []


def test_a_problem_of_the_scan_is_passed_on(place: Place) -> None:
    with pytest.raises(LoadFailed, match="fetch: no model"):
        place.cache().store(replace(place.version(), problem="no model"))


def test_no_room_at_all(place: Place) -> None:
    with pytest.raises(LoadFailed, match=r"fetch: it has 2\.0 MiB, and the model cache may hold 1\.0 MiB"):
        place.cache(MIB).store(place.version(b"x" * 2 * MIB))
    with pytest.raises(LoadFailed, match=r"it has 2\.0 MiB, and the disk has 0\.5 MiB left"):
        place.cache(10 * MIB, free_bytes=MIB // 2).store(place.version(b"x" * 2 * MIB))
    assert leftovers(place.root) == []


def test_a_disk_that_refuses_is_a_failed_load(place: Place) -> None:
    version, cache = place.version(b"x" * 100_000), place.cache(None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(LoadFailed, match="no private copy could be made: File too large") as failed:
            cache.store(version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.stage == "fetch"
    assert str(place.root) not in failed.value.message
    assert leftovers(place.root) == []
    cache.store(version)


# ---- manifests ----


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"model.onnx": {"sha256": sha256(b"graph"), "size": 5}}, ""),
        ({"model.onnx": {"sha256": f"sha256:{sha256(b'graph').upper()}"}}, ""),
        (
            {"model.onnx": {"sha256": sha256(b"other")}},
            "'model.onnx': expected sha256 d9298a10d1b0... by manifest.json",
        ),
        ({"model.onnx": {"sha256": sha256(b"graph"), "size": 6}}, "expected 6 bytes by manifest.json, got 5"),
        ({}, "'model.onnx' is not listed in manifest.json"),
        (
            {"model.onnx": {"sha256": sha256(b"graph")}, "w.bin": {"sha256": sha256(b"")}},
            "manifest.json lists 'w.bin', which is not there",
        ),
        ({"model.onnx": {"sha256": "abc"}}, "manifest.json: Expected"),
        ({"model.onnx": {}}, "missing required field sha256"),
        (None, "manifest.json: Expected object, got null"),
    ],
)
def test_a_manifest_must_agree(place: Place, files: object, says: str) -> None:
    manifest = json.dumps({"files": files, "metrics": {"auc": 0.9}}).encode()
    version = place.version(b"graph", **{"manifest.json": manifest})
    if not says:
        assert place.cache(1000).store(version).size_bytes == 5 + len(manifest)
        return
    with pytest.raises(LoadFailed) as failed:
        place.cache(1000).store(version)
    assert failed.value.stage == "check"
    assert says in failed.value.message
    assert leftovers(place.root) == []


@given(st.binary(max_size=100))
def test_any_manifest_is_read_or_refused(content: bytes) -> None:
    assert disagreement(content, []).startswith("manifest.json")


# ---- crashes ----


def test_what_a_crash_left_is_removed(place: Place) -> None:
    copy = place.cache().store(place.version())
    (place.root / "tmp-1" / "files").mkdir(parents=True)
    (place.root / "tmp-1" / "files" / "model.onnx").write_bytes(b"half")
    (place.root / "tmp-file.json-1").write_bytes(b"{")
    cache = place.cache()
    assert leftovers(place.root) == []
    assert cache.digests == {copy.digest}


def test_foreign_names_are_left_alone(place: Place) -> None:
    place.root.mkdir()
    for name in ("sha256-short", "notes.txt", "sha256-" + "A" * 64):
        (place.root / name).mkdir()
    assert place.cache().digests == frozenset()
    assert (place.root / "notes.txt").exists()


# ---- the bound ----


def test_the_bound() -> None:
    assert bound_bytes(7, 100, 0) == 7
    assert bound_bytes(None, 0, 10**15) == DEFAULT_LIMIT_BYTES
    # What it holds itself does not count as taken, so that the bound stays where it is while it fills.
    assert bound_bytes(None, 0, 1000) == bound_bytes(None, 400, 600) == 500


@given(
    st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 9), st.integers(0, 9))),
    st.sets(st.text(max_size=3)),
    st.integers(0, 40),
)
def test_what_to_evict(held: dict[str, tuple[int, int]], keep: set[str], target: int) -> None:
    entries = {digest: Entry(size, used) for digest, (size, used) in held.items()}
    gone = to_evict(entries, keep, target)
    stays = entries.keys() - set(gone)
    total = sum(entries[digest].size_bytes for digest in stays)
    assert not keep & set(gone)
    assert total <= target or stays <= keep
    if gone:  # the last one was needed, and nothing older was spared
        assert total + entries[gone[-1]].size_bytes > target
        newest = max(entries[digest].used_ns for digest in gone)
        assert all(entries[digest].used_ns >= newest for digest in stays - keep)


def stored(place: Place, cache: ModelCache, letters: str) -> dict[str, str]:
    """Versions of 10 bytes each, one a second; letter to digest."""
    digests = {}
    for letter in letters:
        place.clock.tick(1)
        digests[letter] = cache.store(place.version(letter.encode() * 10, name=letter)).digest
    return digests


def held(cache: ModelCache, digests: dict[str, str]) -> str:
    return "".join(letter for letter, digest in digests.items() if digest in cache.digests)


def test_the_least_recently_used_go_first(place: Place) -> None:
    cache = place.cache(limit_bytes=25)
    digests = stored(place, cache, "abcd")
    assert held(cache, digests) == "abcd"  # nobody has said what is in use
    stored(place, cache, "a")
    assert cache.evict(set(digests.values())) == ()
    assert cache.evict({digests["c"]}) == (digests["b"], digests["d"])
    assert held(cache, digests) == "ac"
    assert not any(digests["b"].replace(":", "-") in path.name for path in place.root.iterdir())
    assert leftovers(place.root) == []


def test_the_order_of_use_outlives_a_restart(place: Place) -> None:
    cache = place.cache(limit_bytes=100)
    digests = stored(place, cache, "abc")
    stored(place, cache, "a")
    cache.remember(digests["b"], ProbeResult(ok=True))
    again = place.cache(limit_bytes=20)
    again.evict(set())
    assert held(again, digests) == "ac"


def test_a_fresh_copy_outlives_the_next_eviction(place: Place) -> None:
    cache = place.cache(limit_bytes=10)
    digests = stored(place, cache, "ab")
    assert cache.evict(set()) == ()
    assert cache.evict({digests["b"]}) == (digests["a"],)


def test_a_store_makes_room_but_not_from_what_is_kept(place: Place) -> None:
    cache = place.cache(limit_bytes=25)
    digests = stored(place, cache, "ab")
    cache.evict(set())
    cache.evict({digests["a"]})
    digests |= stored(place, cache, "c")
    assert held(cache, digests) == "ac"
    with pytest.raises(LoadFailed, match="of the model cache are in use"):
        stored(place, cache, "d")
    assert held(cache, digests) == "ac"
    cache.evict({digests["c"]})
    cache.evict({digests["c"]})
    stored(place, cache, "d")
    assert held(cache, digests) == "c"


def test_an_evicted_version_is_copied_again(place: Place) -> None:
    cache = place.cache(limit_bytes=10)
    digests = stored(place, cache, "a")
    cache.evict(set())
    cache.evict(set())
    stored(place, cache, "b")
    assert held(cache, digests) == ""
    cache.evict(set())
    cache.evict(set())
    assert stored(place, cache, "a") == digests


# ---- verdicts ----


def test_a_verdict_is_remembered_with_the_copy(place: Place) -> None:
    cache = place.cache()
    digest = cache.store(place.version()).digest
    result = ProbeResult(ok=False, reason="no", stage="parse", seconds=0.5, rss_bytes=3, inputs=("x FP32 []",))
    assert cache.verdict(digest) is None
    cache.remember(digest, result)
    assert cache.verdict(digest) == result
    assert place.cache().verdict(digest) == result
    assert place.cache(onnxruntime="2").verdict(digest) is None
    (place.root / digest.replace(":", "-") / "probe.json").write_bytes(b"{")
    assert cache.verdict(digest) is None


def test_what_could_end_differently_is_not_remembered(place: Place) -> None:
    cache = place.cache()
    digest = cache.store(place.version()).digest
    cache.remember(digest, ProbeResult(ok=False, reason="took too long", stage="session", lasting=False))
    assert cache.verdict(digest) is None
    cache.remember("sha256:" + "0" * 64, ProbeResult(ok=True))
    assert cache.verdict("sha256:" + "0" * 64) is None


@given(st.text(max_size=80))
def test_only_digests_become_paths(text: str) -> None:
    cache = object.__new__(ModelCache)
    with pytest.raises(AssertionError, match="expected sha256"):
        cache.verdict(text)


def test_the_default_cache_looks_at_the_disk_and_the_package(place: Place) -> None:
    cache = ModelCache(place.root, None)
    assert 0 < cache.bound_bytes <= DEFAULT_LIMIT_BYTES
    copy = cache.store(place.version())
    cache.remember(copy.digest, ProbeResult(ok=True))
    assert ModelCache(place.root, None).verdict(copy.digest) == ProbeResult(ok=True)
    assert {path.name for path in place.root.iterdir()} == {"seen", copy.digest.replace(":", "-")}
    assert place.root.stat().st_mode & 0o077 == 0
