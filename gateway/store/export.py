"""The file of a Redis backup: a line that names it, frames, and a checksum over all of it at the end."""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from gateway.store.base import StoreUnusable

MAGIC: Final = b"tidegate-redis-backup 1\n"
FRAME_BYTES_MAX: Final = 1024 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder()


class Writer:
    """Writes a part file; `finish` gives it its name. Blocking: runs in a thread."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise StoreUnusable("the backup exists already")
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file: IO[bytes] = open(  # noqa: SIM115  closed by finish or discard
            os.open(self._part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb"
        )
        self._sum = hashlib.sha256()
        self._write(MAGIC)

    def frame(self, value: Any) -> None:
        """One more value of msgpack's kinds."""
        data = _ENCODER.encode(value)
        self._write(_LENGTH.pack(len(data)))
        self._write(data)

    def finish(self) -> None:
        """Checksum, to the disk, and under its name, never over another file."""
        self._write(_LENGTH.pack(0))
        self._file.write(self._sum.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        publish(self._part, self._path)

    def discard(self) -> None:
        """Close and take the part file away; what was finished stays."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._sum.update(data)
        self._file.write(data)


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, never over another one.

    Raises:
        StoreUnusable: the name is taken.
    """
    try:
        os.link(part, path)
    except FileExistsError as error:
        raise StoreUnusable("the backup exists already") from error
    except OSError:
        # A file system without links; that the name was free is known from before.
        part.replace(path)


def read(path: Path) -> Iterator[Any]:
    """The frames. Blocking: runs in a thread.

    Raises:
        StoreUnusable: not such a file, cut off, or changed; at the latest after the last frame.
    """
    if not path.is_file():
        raise StoreUnusable("there is no such backup")
    with path.open("rb") as file:
        total = hashlib.sha256()

        def take(size: int) -> bytes:
            data = file.read(size)
            if len(data) != size:
                raise StoreUnusable("the backup is cut off")
            total.update(data)
            return data

        if file.read(len(MAGIC)) != MAGIC:
            raise StoreUnusable("the file is not a backup of a Redis store of this version")
        total.update(MAGIC)
        while size := _LENGTH.unpack(take(_LENGTH.size))[0]:
            if size > FRAME_BYTES_MAX:
                raise StoreUnusable("the backup is damaged: a frame is too long")
            try:
                yield _DECODER.decode(take(size))
            except msgspec.DecodeError as error:
                raise StoreUnusable("the backup is damaged: a frame cannot be read") from error
        if file.read() != total.digest():
            raise StoreUnusable("the backup is damaged: its checksum does not fit")


def checked(path: Path) -> int:
    """How many frames a sound file has. Errors as `read`."""
    return sum(1 for _ in read(path))
