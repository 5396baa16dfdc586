"""References of the versions that are served: found, checked, remembered. Reads files: call it in a thread."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.control.messages import WantedModel
from gateway.control.monitorheld import in_words
from gateway.monitor.fit import regrouped
from gateway.monitor.reference import FILE_NAME, MAX_BYTES, Reference, ReferenceRefused, loaded
from gateway.monitor.settings import Spec
from gateway.monitor.together import asked_for

_CHUNK: Final = 1024 * 1024


class References:
    """What was found for each version, under each setting that matters."""

    def __init__(self, digest_of: Callable[[Path], str] | None = None) -> None:
        self._known: dict[tuple[object, ...], tuple[Reference | None, str]] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._digest_of = digest_of or sha256_of

    def find(self, model: WantedModel, spec: Spec) -> tuple[Reference | None, str]:
        """A version's reference, and why there is none; both empty = nobody made one.

        A reference is bound to the bytes of its model file: what was made for other bytes is refused, and serving
        goes on.
        """
        path = Path(spec.reference.file).expanduser() if spec.reference.file else Path(model.directory) / FILE_NAME
        key = (model.digest, str(path), _stamp(path), spec.multivariate, spec.groups)
        self._asked.add(key)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._read(model, path, spec)
        return known

    def settle(self) -> None:
        """Forget what was not asked for since the last call: it is not served any more, or not like this."""
        self._known = {key: found for key, found in self._known.items() if key in self._asked}
        self._asked = set()

    def _read(self, model: WantedModel, path: Path, spec: Spec) -> tuple[Reference | None, str]:
        try:
            reference = loaded(_content(path))
            digest = self._digest_of(Path(model.directory) / model.file)
        except FileNotFoundError:
            return None, f"reference: {path.name} is not there" if spec.reference.file else ""
        except OSError as error:
            return None, f"reference: cannot be read: {error.strerror}"
        except ReferenceRefused as error:
            return None, f"reference: {error}"
        except Exception as error:  # files and their names are anybody's: other models are watched all the same
            return None, f"reference: {in_words(error)}"
        if reference.binding.digest != digest:
            return None, (
                f"reference: it was made for the model with sha256 {reference.binding.digest[:12]}..., this one has "
                f"{digest[:12]}...; make one for it: tidegate monitor fit"
            )
        return as_asked(reference, spec), ""


def as_asked(reference: Reference, spec: Spec) -> Reference:
    """A reference as the settings want it: with their groups, with or without its features together."""
    return asked_for(regrouped(reference, spec.groups.values if spec.groups is not None else ()), spec)


def _content(path: Path) -> bytes:
    """A file's bytes, and never those of a pipe or a device, which might not end. Raises OSError, ReferenceRefused."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ReferenceRefused("it is no file")
        if found.st_size > MAX_BYTES:
            raise ReferenceRefused(f"expected at most {MAX_BYTES:,} bytes, got {found.st_size:,}")
        return file.read(MAX_BYTES)


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):  # it is not there, or nothing can have such a name
        return ""
    return f"{found.st_mtime_ns}/{found.st_size}"


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
