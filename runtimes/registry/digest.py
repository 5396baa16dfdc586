"""What files a version has and what is in them, read in a way that no file name, link or device can abuse.

Below the repository's root nothing is followed: each component is opened on its own with O_NOFOLLOW, a file must be a
regular one with a single name, and reading one that is a FIFO or a device never blocks or begins. (ONNX Runtime
refuses symlinks in external data, but loads hardlinks.)
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

MAX_FILES: Final = 1000
MAX_BYTES: Final = 20 * 1024**3
MAX_MODEL_BYTES: Final = 2 * 1024**3
"""A protobuf message cannot be larger; weights beyond it go into external data."""
_MAX_DEPTH: Final = 8
_CHUNK_BYTES: Final = 1024 * 1024
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesRefused(ValueError):
    """Files that will not be read, or that changed meanwhile; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as a scan saw it; two equal ones are the same file with, in all likelihood, the same content.

    Attributes:
        path: relative to the version's folder, with slashes.
        ctime_ns: set by the kernel alone, so that a restored mtime hides no change.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file's content.

    Attributes:
        sha256: 64 hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


def version_digest(files: Iterable[HashedFile]) -> str:
    """The name of a version's content: "sha256:HEX" over its sorted (path, size, sha256)."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        # No separator can occur inside: paths hold no control characters.
        total.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return f"sha256:{total.hexdigest()}"


@contextmanager
def opened_folder(base: str, folder: str) -> Iterator[int]:
    """A descriptor of `folder` below `base`, which alone may lead over links.

    Raises:
        FilesRefused: a component is a link or no folder.
        OSError
    """
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in filter(None, folder.split("/")):
            descriptor = _step_into(descriptor, part)
        yield descriptor
    finally:
        os.close(descriptor)


def walk(folder: int, *, deep: bool = True) -> tuple[FoundFile, ...]:
    """Every file below an opened folder, sorted by path.

    Args:
        deep: False = only the files in the folder itself; sub-folders are passed over.

    Raises:
        FilesRefused: something that is neither file nor folder, a link, a name that is not printable UTF-8, more
            than MAX_FILES files or MAX_BYTES bytes.
        OSError
    """
    found: list[FoundFile] = []
    _walk(folder, "", found, _MAX_DEPTH if deep else 0, deep)
    total = sum(file.size for file in found)
    if total > MAX_BYTES:
        raise FilesRefused(f"{total} bytes in all; at most {MAX_BYTES} are served")
    return tuple(sorted(found, key=lambda file: file.path))


def found_file(folder: int, path: str) -> FoundFile:
    """One file of an opened folder.

    Raises:
        FilesRefused: not a regular file with a single name.
        OSError
    """
    return _found(path, os.stat(path, dir_fd=folder, follow_symlinks=False))


def read_small(folder: int, path: str, limit_bytes: int) -> bytes:
    """The whole of a small file.

    Raises:
        FilesRefused: it is longer than `limit_bytes`, or no regular file.
        OSError
    """
    with _opened_file(folder, path) as source, open(source, "rb", closefd=False) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise FilesRefused(f"{shown(path)} is longer than {limit_bytes} bytes")
    return content


def copy_hashed(folder: int, file: FoundFile, target: str | None) -> HashedFile:
    """Hash a file of an opened folder while copying it, so that what is kept is what was hashed.

    Args:
        file: as the scan saw it; anything else now in its place is refused.
        target: path of the copy, which must not exist; None = only hash.

    Raises:
        FilesRefused: it is not, or does not stay, the file that was seen.
        OSError
    """
    with _opened_file(folder, file.path) as source:
        _require_same(source, file)
        sha256 = hashlib.sha256()
        if target is None:
            size = _pump(source, sha256, None, file.size)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            copy = os.open(target, flags, 0o400)
            try:
                size = _pump(source, sha256, copy, file.size)
                os.fsync(copy)
            finally:
                os.close(copy)
        _require_same(source, file)
    if size != file.size:
        raise FilesRefused(f"{shown(file.path)} changed while it was read")
    return HashedFile(file.path, size, sha256.hexdigest())


def shown(name: str) -> str:
    """A file name for a message: quoted, escaped, at most 80 characters."""
    return ascii(name[:80])


def _step_into(descriptor: int, part: str) -> int:
    try:
        inner = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
    except NotADirectoryError as error:
        raise FilesRefused(f"{shown(part)} is a link or no folder") from error
    os.close(descriptor)
    return inner


def _walk(folder: int, prefix: str, found: list[FoundFile], depth: int, deep: bool) -> None:
    for name in sorted(os.listdir(folder)):
        path = prefix + name
        _require_name(name)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            found.append(_found(path, status))
        elif deep:
            if depth == 0:
                raise FilesRefused(f"{shown(path)}: folders are nested deeper than {_MAX_DEPTH} levels")
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
            try:
                _walk(inner, f"{path}/", found, depth - 1, deep)
            finally:
                os.close(inner)
        if len(found) > MAX_FILES:
            raise FilesRefused(f"more than {MAX_FILES} files")


def _require_name(name: str) -> None:
    # A name that is not UTF-8 arrives with surrogates, which are not printable either.
    if not name.isprintable():
        raise FilesRefused(f"{shown(name)}: a file name must be printable UTF-8")


def _found(path: str, status: os.stat_result) -> FoundFile:
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFLNK: "a symbolic link",
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a FIFO",
            stat.S_IFSOCK: "a socket",
        }
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise FilesRefused(f"{shown(path)} is {kind}; only regular files are read")
    if status.st_nlink != 1:
        raise FilesRefused(f"{shown(path)} has {status.st_nlink} names (hard links); a served file must have one")
    return FoundFile(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


@contextmanager
def _opened_file(folder: int, path: str) -> Iterator[int]:
    *folders, name = path.split("/")
    descriptor = os.dup(folder)
    try:
        for part in folders:
            descriptor = _step_into(descriptor, part)
        file = os.open(name, _FILE_FLAGS, dir_fd=descriptor)
    except OSError as error:
        raise FilesRefused(f"{shown(path)} cannot be opened: {error.strerror}") from error
    finally:
        os.close(descriptor)
    try:
        _found(path, os.fstat(file))
        yield file
    finally:
        os.close(file)


def _require_same(source: int, file: FoundFile) -> None:
    if _found(file.path, os.fstat(source)) != file:
        raise FilesRefused(f"{shown(file.path)} changed while it was read")


def _pump(source: int, sha256: "hashlib._Hash", copy: int | None, expected_bytes: int) -> int:
    """Move what is there, but not much more than expected: a file that grows while it is read has no end."""
    size = 0
    while size <= expected_bytes and (chunk := os.read(source, _CHUNK_BYTES)):
        sha256.update(chunk)
        size += len(chunk)
        view = memoryview(chunk)
        while copy is not None and view:
            view = view[os.write(copy, view) :]
    return size
