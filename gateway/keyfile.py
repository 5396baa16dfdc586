"""`keys.json` in the data folder: read as a whole, changed under a lock, replaced in one step.

The command line and a running server change the same file, so each change reads it anew under `keys.lock`. Who looks at
it without the lock sees the old file or the new one. A file that others may read or write is refused.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from gateway.keys import Key, Wish, checked, created, digest_of, new_key, revoked
from runtimes.errors import InvalidInput, ServingError

VERSION: Final = 1
BYTES_MAX: Final = 8 * 1024 * 1024
"""Of the file: more than KEYS_MAX keys need."""
Stamp = tuple[int, ...]
"""Changes whenever the file does."""


class KeysUnusable(ServingError):
    """The file of the keys cannot be used; the message says why, without naming a path."""

    code = "keys_unusable"


class _Version(Struct):
    version: int


class _Document(Struct, forbid_unknown_fields=True):
    version: int
    keys: tuple[Key, ...]


class KeyFile:
    """The keys of one data folder. No file = no keys.

    Args:
        wall_s: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wall_s: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._folder = folder
        self._path = folder / "keys.json"
        self._wall_s = wall_s
        self._random_bytes = random_bytes

    def stamp(self) -> Stamp:
        """Which file is there now; () = none. Raises KeysUnusable."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise KeysUnusable(f"keys.json cannot be looked at: {error.strerror}") from error
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode

    def read(self) -> tuple[Key, ...]:
        """Every key, revoked ones too, oldest first.

        Raises:
            KeysUnusable: others may read or write the file, it is damaged, or of a version that is not known.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise KeysUnusable(f"keys.json cannot be read: {error.strerror}") from error
        try:
            _check_owner(os.fstat(descriptor))
            with open(descriptor, "rb", closefd=False) as file:
                return _parsed(file.read(BYTES_MAX + 1))
        finally:
            os.close(descriptor)

    def create(self, wish: Wish) -> tuple[str, Key]:
        """Make a key; gives it, which nobody can do again, and what is kept of it.

        Raises:
            KeysUnusable, InvalidInput, Conflict
        """
        text = new_key(self._random_bytes)
        with self._locked() as keys:
            after = created(keys, wish, digest_of(text.encode()), self._wall_s())
            self._write(after)
        return text, after[-1]

    def revoke(self, name: str) -> Key:
        """Revoke a key for good. Raises KeysUnusable, UnknownKey."""
        with self._locked() as keys:
            after = revoked(keys, name, self._wall_s())
            if after != keys:
                self._write(after)
        return next(key for key in after if key.name == name)

    @contextmanager
    def _locked(self) -> Iterator[tuple[Key, ...]]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._folder / "keys.lock", flags, 0o600)
        except OSError as error:
            raise KeysUnusable(f"keys.json cannot be changed: {error.strerror}") from error
        try:
            _give_to_owner(descriptor, self._folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self.read()
        finally:
            os.close(descriptor)

    def _write(self, keys: Sequence[Key]) -> None:
        """Replace the file, for good: what was revoked stays so when the power fails."""
        content = msgspec.json.format(msgspec.json.encode(_Document(VERSION, tuple(keys))), indent=1) + b"\n"
        temporary = self._path.with_suffix(".new")
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                _give_to_owner(descriptor, self._folder)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._path)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise KeysUnusable(f"keys.json cannot be changed: {error.strerror}") from error


def _give_to_owner(descriptor: int, folder: Path) -> None:
    """What root makes belongs to the folder's owner, else the server could not read it."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _check_owner(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeysUnusable("keys.json is no regular file")
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise KeysUnusable(f"keys.json may be read or changed by others (mode {mode}): put it right with chmod 600")
    if found.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise KeysUnusable("keys.json belongs to somebody else")


def _parsed(content: bytes) -> tuple[Key, ...]:
    """Raises KeysUnusable."""
    if len(content) > BYTES_MAX:
        raise KeysUnusable(f"keys.json is longer than {BYTES_MAX} bytes")
    try:
        version = msgspec.json.decode(content, type=_Version).version
        if version != VERSION:
            raise KeysUnusable(f"keys.json is of version {version}; version {VERSION} is understood here")
        keys = msgspec.json.decode(content, type=_Document).keys
        for key in keys:
            checked(key)
            if len(bytes.fromhex(key.sha256)) != 32:
                raise ValueError(f"sha256 of key {key.name!r}: expected 64 hexadecimal digits")
    except InvalidInput as error:
        raise KeysUnusable(f"keys.json: {error.message}") from error
    except ValueError as error:
        # msgspec's errors are ValueErrors too.
        raise KeysUnusable(f"keys.json is damaged: {error}") from error
    if len({key.name for key in keys}) != len(keys) or len({key.sha256 for key in keys}) != len(keys):
        raise KeysUnusable("keys.json names a key twice")
    return keys
