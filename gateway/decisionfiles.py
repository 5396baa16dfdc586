"""Files of decision logs: names, keyed hashes, rotation, search, erasure. One writer per file; a lock keeps an erasure
and the writer apart.

    DATA_DIR/decisions/worker-SLOT.jsonl     being written; then .1, .2 ..., the oldest last
    DATA_DIR/decisions/worker-SLOT.lock      held while any of them is changed

Lines hold no unit and no prediction id but a hash of each under a secret of the store: who has the files alone cannot
find out whom they are about, also not by trying names.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2s
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "decisions"
MOST_FOUND: Final = 1_000


def keyed_prediction(key: bytes, text: bytes) -> str:
    """A prediction id as it is written: 16 hexadecimal digits."""
    return blake2s(b"prediction\0" + text, key=key, digest_size=8).hexdigest()


@contextmanager
def locked(folder: Path, slot: str) -> Iterator[None]:
    """Nobody else changes the files of this slot. Blocks; for threads. Raises OSError."""
    descriptor = os.open(folder / f"worker-{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def append(folder: Path, slot: str, lines: bytes, file_bytes: int, files: int) -> None:
    """Write whole lines behind the others, or nothing; a full file is rotated before.

    Raises:
        OSError: nothing of these lines was kept.
    """
    with locked(folder, slot):
        path = folder / f"worker-{slot}.jsonl"
        if path.exists() and path.stat().st_size + len(lines) > file_bytes:
            _rotate(path, files)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                # A full disk may have taken half a line.
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


class FileSink:
    """Files of one slot. See `gateway.decisions.Sink`."""

    part_lines = 2_000
    part_bytes = line_bytes = sys.maxsize

    def __init__(self, folder: Path, slot: int, file_bytes: int, files: int) -> None:
        self._folder = folder
        self._slot = str(slot)
        self._bounds = (file_bytes, files)

    def open(self) -> None:
        """Make the folder. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, lines: Sequence[bytes]) -> None:
        """See `append`."""
        append(self._folder, self._slot, b"".join(lines), *self._bounds)


def _rotate(path: Path, files: int) -> None:
    for number in range(files - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if newer.exists():
            newer.replace(older)
    if files == 1:
        path.unlink()


def paths(folder: Path) -> list[Path]:
    """Every file of every slot, newest lines last within a slot."""

    def place(path: Path) -> tuple[str, int]:
        name, _, number = path.name.partition(".jsonl")
        return name, -int(number.removeprefix(".") or 0)

    return sorted(folder.glob("worker-*.jsonl*"), key=place)


def find(folder: Path, wanted: Callable[[dict[str, Any]], bool], needle: bytes) -> list[dict[str, Any]]:
    """The last lines that are wanted, oldest first; at most `MOST_FOUND`. For threads.

    Args:
        needle: stands in each wanted line; other lines are not even decoded.
    """
    found: list[dict[str, Any]] = []
    for path in paths(folder):
        with path.open("rb") as file:
            for line in file:
                if needle in line and (fields := decoded(line)) is not None and wanted(fields):
                    found.append(fields)
                    del found[: -2 * MOST_FOUND]
    return sorted(found, key=lambda line: int(line.get("time_ms", 0)))[-MOST_FOUND:]


def forget(folder: Path, wanted: Callable[[dict[str, Any]], bool], needle: bytes) -> int:
    """Write every file anew without the lines that are wanted; how many there were. For threads. Raises OSError."""
    erased = 0
    for slot in sorted({path.name.removeprefix("worker-").partition(".")[0] for path in paths(folder)}):
        with locked(folder, slot):
            for path in folder.glob(f"worker-{slot}.jsonl*"):
                erased += _rewritten(path, wanted, needle)
    return erased


def _rewritten(path: Path, wanted: Callable[[dict[str, Any]], bool], needle: bytes) -> int:
    temporary = path.with_name(f".{path.name}.new")
    gone = 0
    try:
        with (
            path.open("rb") as old,
            open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as new,
        ):
            for line in old:
                if needle in line and (fields := decoded(line)) is not None and wanted(fields):
                    gone += 1
                else:
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
        if gone:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return gone


def decoded(line: bytes) -> dict[str, Any] | None:
    """A line's fields; None = it is no JSON object."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
