"""What this node knows of its policies, kept beside the store: a start without the store goes on from it."""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from gateway.control.messages import SigningKey

_FILE: Final = "policies.state"
_log: Final = logging.getLogger(__name__)


class Remembered(msgspec.Struct, frozen=True, array_like=True):
    """What is kept.

    Attributes:
        signing: keys of prediction ids.
        records: name -> revision in the store, and the record as JSON.
        unit_key: keys the hashes of units, see `gateway.unitkeys`.
        life: of the store that this was learned from, see `Store.life`.
        deleted: name -> what is kept of a policy that was deleted.
    """

    signing: tuple[SigningKey, ...] = ()
    records: dict[str, tuple[int, bytes]] = {}
    unit_key: bytes = b""
    life: int = 0
    deleted: dict[str, bytes] = {}


class PolicyCache:
    """A file of the data folder, replaced in one step; nobody but its owner reads it.

    One thread writes, so states come into the file in the order of the calls, and the loop waits for no disk.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policies")

    async def write(self, state: Remembered) -> None:
        """Replace it; when this returns, the state is on the disk. Cancel: it is written all the same.

        A folder that cannot be written is logged, and what serves goes on.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._replace, state)

    def _replace(self, state: Remembered) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.msgpack.encode(state))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            _log.error("state_not_written", extra={"facts": {"reason": error.strerror}})

    def read(self) -> Remembered:
        """What was kept; nothing where there is no file, or one that cannot be read."""
        try:
            return msgspec.msgpack.decode(self._path.read_bytes(), type=Remembered)
        except (OSError, msgspec.DecodeError):
            return Remembered()
