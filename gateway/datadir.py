"""The folder for state: private to its user, and to one process tree at a time."""

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gateway.config import ConfigError, Data


@dataclass(frozen=True, slots=True)
class DataDir:
    """A locked data folder; the lock is held until the descriptor is closed, at the latest with the process.

    Attributes:
        ephemeral: a temporary folder that `close` removes.
    """

    path: Path
    lock_fd: int
    ephemeral: bool

    def close(self) -> None:
        """Unlock; a temporary folder is removed."""
        os.close(self.lock_fd)
        if self.ephemeral:
            shutil.rmtree(self.path, ignore_errors=True)


def default_path() -> Path:
    """`$XDG_DATA_HOME/tidegate`, by default `~/.local/share/tidegate` (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "tidegate"


def open_data_dir(data: Data) -> DataDir:
    """Make, check and lock the folder.

    Raises:
        ConfigError: it cannot be written and `ephemeral` is not set, others may enter it, or it is in use.
    """
    path = Path(data.dir).expanduser() if data.dir is not None else default_path()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if data.ephemeral:
            return _temporary()
        raise ConfigError(
            f"data.dir: {path} cannot be written: {error.strerror}; name another with --data-dir, or use --ephemeral"
        ) from error
    return DataDir(path, _locked(descriptor, path), ephemeral=False)


def _locked(descriptor: int, path: Path) -> int:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "another process"
        os.close(descriptor)
        raise ConfigError(f"data.dir: {path} is in use by process {holder}; name another with --data-dir") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _temporary() -> DataDir:
    path = Path(tempfile.mkdtemp(prefix="tidegate-"))
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return DataDir(path, _locked(descriptor, path), ephemeral=True)
