"""Private copies of versions, named by their content, so that nothing can change under a loaded model.

    <root>/sha256-HEX/files/...    the version's files, read-only
    <root>/sha256-HEX/probe.json   how its first load in a child process ended
    <root>/seen/HASH.json          which content the files at a place had, so that a restart need not hash them again
    <root>/tmp-*                   unfinished; removed at the next start

Everything appears by a rename and disappears by one, so that a crash leaves whole entries or tmp-*. An entry's time
of change is when it was last used.
"""

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from runtimes.errors import LoadFailed
from runtimes.registry.digest import (
    FilesRefused,
    FoundFile,
    HashedFile,
    copy_hashed,
    opened_folder,
    read_small,
    version_digest,
    walk,
)
from runtimes.registry.directory import SeenVersion
from runtimes.registry.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, disagreement
from runtimes.registry.names import DIGEST
from runtimes.registry.probe import ProbeResult

DEFAULT_LIMIT_BYTES: Final = 20 * 1024**3
MAX_PLACES: Final = 20_000
"""Remembered places; the oldest are forgotten, which costs a hash and nothing else."""
_TEMPORARY: Final = "tmp-"
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A private copy.

    Attributes:
        digest: "sha256:HEX" of all files.
        directory, file: absolute path of the copy, and the model file in it.
        size_bytes: of all files.
    """

    digest: str
    directory: str
    file: str
    size_bytes: int


@dataclass(slots=True)
class Entry:
    """What the cache holds under one digest: bytes of its files, and when it was last used (wall clock)."""

    size_bytes: int
    used_ns: int


class _Place(msgspec.Struct, frozen=True):
    files: tuple[FoundFile, ...]
    digest: str


class _Verdict(msgspec.Struct, frozen=True):
    onnxruntime: str
    result: ProbeResult


def bound_bytes(limit_bytes: int | None, held_bytes: int, free_bytes: int) -> int:
    """How much the cache may hold: what is configured, or 20 GiB, but at most half of what it could have."""
    return limit_bytes if limit_bytes is not None else min(DEFAULT_LIMIT_BYTES, (held_bytes + free_bytes) // 2)


def to_evict(entries: dict[str, Entry], keep: Collection[str], target_bytes: int) -> tuple[str, ...]:
    """The least recently used digests to drop so that at most `target_bytes` stay, as far as `keep` allows."""
    total = sum(entry.size_bytes for entry in entries.values())
    chosen: list[str] = []
    for digest in sorted(entries, key=lambda digest: (entries[digest].used_ns, digest)):
        if total <= target_bytes:
            break
        if digest not in keep:
            chosen.append(digest)
            total -= entries[digest].size_bytes
    return tuple(chosen)


class ModelCache:
    """The copies of one node. For one thread at a time; it blocks on the disk.

    Args:
        root: made when it is not there; belongs to this process tree alone.
        limit_bytes: bound; None = the smaller of 20 GiB and half of the free space.
        free_bytes: free space where the root is.
        now_ns: wall clock, for the order of use.
        onnxruntime: its version; a verdict of another one is not believed.

    Raises:
        OSError: the root cannot be used.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        limit_bytes: int | None,
        *,
        free_bytes: Callable[[], int] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        onnxruntime: str | None = None,
    ) -> None:
        self._root = Path(os.path.abspath(root))
        self._limit_bytes = limit_bytes
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(self._root).free)
        self._now_ns = now_ns
        self._onnxruntime = _onnxruntime_version() if onnxruntime is None else onnxruntime
        self._kept: frozenset[str] | None = None
        self._fresh: set[str] = set()
        self._places = self._root / "seen"
        # One by one: `parents=True` would give the root the usual rights.
        self._root.parent.mkdir(parents=True, exist_ok=True)
        self._root.mkdir(exist_ok=True, mode=0o700)
        self._places.mkdir(exist_ok=True, mode=0o700)
        for leftover in self._root.glob(f"{_TEMPORARY}*"):
            _remove(leftover)
        self._entries = dict(_entries(self._root))
        self._trim_places()

    @property
    def size_bytes(self) -> int:
        """Of all copies."""
        return sum(entry.size_bytes for entry in self._entries.values())

    @property
    def bound_bytes(self) -> int:
        """How much it may hold now."""
        return bound_bytes(self._limit_bytes, self.size_bytes, self._free_bytes())

    @property
    def digests(self) -> frozenset[str]:
        """What it holds."""
        return frozenset(self._entries)

    def store(self, seen: SeenVersion) -> CachedVersion:
        """A private copy of a version as it was seen; its files are not even opened when they are known.

        Raises:
            LoadFailed: stage "fetch" when the files changed, cannot be read or do not fit; "check" when they are
                not what the manifest says.
        """
        if seen.problem:
            raise LoadFailed(seen.problem, stage="fetch")
        try:
            digest = self._known(seen) or self._copied(seen)
            self._use(digest)
        except FilesRefused as error:
            raise LoadFailed(str(error), stage="fetch") from error
        except OSError as error:
            reason = error.strerror or "the disk failed"
            raise LoadFailed(f"no private copy could be made: {reason}", stage="fetch") from error
        return CachedVersion(digest, str(self._files(digest)), seen.model_file, seen.size_bytes)

    def evict(self, keep: AbstractSet[str]) -> tuple[str, ...]:
        """Drop what is not in `keep`, least recently used first, until the bound is met; give back what went.

        A copy made since the last call stays as well: who asked for it may not have named it yet.
        """
        self._kept = frozenset(keep) | self._fresh
        self._fresh = set()
        self._trim_places()
        return self._drop(to_evict(self._entries, self._kept, self.bound_bytes))

    def verdict(self, digest: str) -> ProbeResult | None:
        """How the first load of a content ended, under the ONNX Runtime of today; None = not known."""
        try:
            written = msgspec.json.decode((self._entry(digest) / "probe.json").read_bytes(), type=_Verdict)
        except (OSError, ValueError):
            return None
        return written.result if written.onnxruntime == self._onnxruntime else None

    def remember(self, digest: str, result: ProbeResult) -> None:
        """Keep a verdict beside the copy, unless another try could end differently. A full disk is no failure."""
        if result.lasting and digest in self._entries:
            content = msgspec.json.encode(_Verdict(self._onnxruntime, result))
            self._write(self._entry(digest) / "probe.json", content)
            os.utime(self._entry(digest), ns=(self._entries[digest].used_ns,) * 2)

    # ---- places and paths ----

    def _entry(self, digest: str) -> Path:
        # A digest is a part of a path here: nothing else may be.
        assert DIGEST.match(digest), "expected sha256: and 64 of 0-9 a-f"
        return self._root / digest.replace(":", "-")

    def _files(self, digest: str) -> Path:
        return self._entry(digest) / "files"

    def _place(self, seen: SeenVersion) -> Path:
        named = f"{seen.base}\0{seen.folder}\0{seen.model_file}".encode("utf-8", "surrogateescape")
        return self._places / f"{hashlib.sha256(named).hexdigest()[:32]}.json"

    def _known(self, seen: SeenVersion) -> str | None:
        """The digest of files that have not changed since they were hashed, if their copy is whole."""
        try:
            place = msgspec.json.decode(self._place(seen).read_bytes(), type=_Place)
        except (OSError, ValueError):
            return None
        known = place.files == seen.files and place.digest in self._entries
        return place.digest if known and self._is_whole(place.digest, seen.files) else None

    def _is_whole(self, digest: str, files: Iterable[FoundFile | HashedFile]) -> bool:
        """Whether a copy has the right files of the right sizes; their bytes are not read."""
        try:
            with opened_folder(str(self._files(digest)), "") as folder:
                held = {file.path: file.size for file in walk(folder)}
        except (OSError, FilesRefused):
            return False
        return held == {file.path: file.size for file in files}

    def _trim_places(self) -> None:
        places = sorted(os.scandir(self._places), key=lambda place: place.stat().st_mtime_ns)
        for place in places[: max(0, len(places) - MAX_PLACES)]:
            os.unlink(place.path)

    # ---- copies ----

    def _copied(self, seen: SeenVersion) -> str:
        self._make_room(seen.size_bytes)
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._root))
        try:
            files = temporary / "files"
            files.mkdir(mode=0o700)
            hashed = copy_files(seen.base, seen.folder, seen.files, files)
            _require_manifest(files, hashed)
            digest = version_digest(hashed)
            if digest not in self._entries or not self._is_whole(digest, hashed):
                self._take(temporary, digest, seen.size_bytes)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._write(self._place(seen), msgspec.json.encode(_Place(seen.files, digest)))
        return digest

    def _take(self, temporary: Path, digest: str, size_bytes: int) -> None:
        self._drop((digest,))
        temporary.rename(self._entry(digest))
        sync_folder(self._root)
        self._entries[digest] = Entry(size_bytes, self._now_ns())

    def _use(self, digest: str) -> None:
        now = self._now_ns()
        self._entries[digest].used_ns = now
        self._fresh.add(digest)
        os.utime(self._entry(digest), ns=(now, now))

    def _make_room(self, needed_bytes: int) -> None:
        bound = self.bound_bytes
        if needed_bytes > bound:
            raise LoadFailed(f"it has {_mib(needed_bytes)}, and the model cache may hold {_mib(bound)}", stage="fetch")
        if self._kept is not None:
            kept = self._kept | self._fresh
            self._drop(to_evict(self._entries, kept, bound - needed_bytes))
            if self.size_bytes + needed_bytes > bound:
                held = f"{_mib(self.size_bytes)} of the {_mib(bound)} of the model cache are in use"
                raise LoadFailed(f"it has {_mib(needed_bytes)}, and {held}", stage="fetch")
        # Before the first `evict` nobody has said what is in use: the bound waits for it, the disk does not.
        if needed_bytes > (free := self._free_bytes()):
            raise LoadFailed(f"it has {_mib(needed_bytes)}, and the disk has {_mib(free)} left", stage="fetch")

    def _drop(self, digests: Iterable[str]) -> tuple[str, ...]:
        dropped = []
        for digest in digests:
            doomed = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._root))
            if self._entry(digest).exists():
                self._entry(digest).rename(doomed / "entry")
            shutil.rmtree(doomed, ignore_errors=True)
            if self._entries.pop(digest, None):
                dropped.append(digest)
        return tuple(dropped)

    def _write(self, path: Path, content: bytes) -> None:
        """Put a small file in its place in one step. What it says can be found out again, so it may be lost."""
        temporary = self._root / f"{_TEMPORARY}{path.name}-{os.getpid()}"
        try:
            temporary.write_bytes(content)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)


def copy_files(base: str, folder: str, files: Sequence[FoundFile], target: Path) -> list[HashedFile]:
    """Copy the files of a version into an empty folder, hash them on the way and force them to the disk.

    Raises:
        FilesRefused: a file is not, or does not stay, the one that was seen.
        OSError
    """
    inner = sorted({str(parent) for file in files for parent in Path(file.path).parents})
    for name in inner:
        (target / name).mkdir(mode=0o700, exist_ok=True)
    with opened_folder(base, folder) as opened:
        hashed = [copy_hashed(opened, file, str(target / file.path)) for file in files]
    for name in inner:
        sync_folder(target / name)
    return hashed


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Force a folder's names to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_manifest(files: Path, hashed: Sequence[HashedFile]) -> None:
    """Compare the copy with its manifest, if it has one: what was hashed is what will be loaded."""
    if not any(file.path == MANIFEST_FILE for file in hashed):
        return
    with opened_folder(str(files), "") as folder:
        manifest = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    if problem := disagreement(manifest, hashed):
        raise LoadFailed(problem, stage="check")


def _entries(root: Path) -> Iterable[tuple[str, Entry]]:
    for found in os.scandir(root):
        digest = found.name.replace("-", ":", 1)
        if DIGEST.match(digest) and found.is_dir(follow_symlinks=False):
            yield digest, Entry(_size_bytes(found.path), found.stat().st_mtime_ns)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size_bytes(folder: str) -> int:
    statuses = (os.lstat(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)
    return sum(status.st_size for status in statuses if stat.S_ISREG(status.st_mode))


def _onnxruntime_version() -> str:
    """From the package's data: importing it would cost every process that only copies files 0.1 s."""
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return ""


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
