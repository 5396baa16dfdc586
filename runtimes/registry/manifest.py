"""`manifest.json` of a version: what its publisher says is in it. Pure: bytes in, an answer out.

    {"files": {"model.onnx": {"sha256": "HEX", "size": 139}}, ...}

Every other key is for people and tools and is not looked at. The manifest does not list itself.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct, ValidationError, json

from runtimes.registry.digest import HashedFile, shown

MANIFEST_FILE: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""1000 files with names of 255 bytes take a tenth of it."""


class _Listed(Struct, frozen=True):
    sha256: Annotated[str, Meta(pattern=r"^(sha256:)?[0-9a-fA-F]{64}$")]
    size: Annotated[int, Meta(ge=0)] | None = None


class _Manifest(Struct, frozen=True):
    files: dict[str, _Listed]


def disagreement(manifest: bytes, files: Iterable[HashedFile]) -> str:
    """What in the files is not as the manifest says; "" when everything is.

    Args:
        files: all of the version, the manifest itself included or not.
    """
    try:
        listed = json.decode(manifest, type=_Manifest).files
    except ValidationError as error:
        return f"{MANIFEST_FILE}: {str(error).replace('`', '')}"
    except ValueError:
        return f"{MANIFEST_FILE} is not JSON"
    return _difference(listed, {file.path: file for file in files if file.path != MANIFEST_FILE})


def _difference(listed: Mapping[str, _Listed], found: Mapping[str, HashedFile]) -> str:
    for path in sorted(listed.keys() | found.keys()):
        if path not in found:
            return f"{MANIFEST_FILE} lists {shown(path)}, which is not there"
        if path not in listed:
            return f"{shown(path)} is not listed in {MANIFEST_FILE}"
        says, file = listed[path], found[path]
        if says.size is not None and says.size != file.size:
            return f"{shown(path)}: expected {says.size} bytes by {MANIFEST_FILE}, got {file.size}"
        if (expected := says.sha256.removeprefix("sha256:").lower()) != file.sha256:
            return f"{shown(path)}: expected sha256 {expected[:12]}... by {MANIFEST_FILE}, got {file.sha256[:12]}..."
    return ""
