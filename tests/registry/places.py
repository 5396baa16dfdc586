"""What the tests of the registry share: clocks that stand still, and versions as a scan would see them."""

import os
from pathlib import Path

from runtimes.registry.digest import opened_folder, walk
from runtimes.registry.directory import DirectorySource, SeenVersion

SECOND = 1_000_000_000
QUIET_NS = 5 * SECOND


class Clock:
    """Nanoseconds that pass when a test says so; wall and monotonic alike."""

    def __init__(self) -> None:
        self.ns = 2_000_000_000 * SECOND

    def __call__(self) -> int:
        return self.ns

    def tick(self, seconds: float) -> None:
        self.ns += int(seconds * SECOND)


def source(root: Path, clock: Clock, quiet_ns: int = QUIET_NS) -> DirectorySource:
    return DirectorySource(root, quiet_ns, monotonic_ns=clock, wall_ns=clock)


def age(path: Path, clock: Clock, seconds: float) -> None:
    """Give files an mtime in the past of the clock."""
    then = clock() - int(seconds * SECOND)
    for file in [path, *path.rglob("*")]:
        os.utime(file, ns=(then, then), follow_symlinks=False)


def seen(folder: Path, version: int = 1, name: str = "m") -> SeenVersion:
    """A folder as a scan would offer it."""
    with opened_folder(str(folder), "") as opened:
        return SeenVersion(name, version, str(folder), "", "model.onnx", walk(opened), settled=True)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
