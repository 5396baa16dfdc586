"""How many instructions a request takes: `python -m loadtests.instructions`; needs Debian's valgrind.

Times of two builds differ by less than those of two starts of one build; instructions do not. What is counted is the
path of `loadtests.hotpath`: no kernel, no sockets, no background work. An instruction is no time: these say which of
two ways is shorter, and `loadtests.run` what came of it.
"""

import argparse
import asyncio
import ctypes
import gc
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from gateway import native
from loadtests import hotpath, models

BATCH: Final = 8
TURNS: Final = 300
LIMIT_S: Final = 600
_BUDGET_NS: Final = 10**13
"""Under valgrind all is slow, and nothing is to move to the pool for that."""


def counted(work: str) -> float:
    """Instructions of a request, all that this process did for it. Raises RuntimeError: valgrind did not count."""
    command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=ffi_call"]
    command += ["--callgrind-out-file=/dev/null", sys.executable, "-m", "loadtests.instructions", "--inside", work]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None or not int(found[1]):
        raise RuntimeError(f"valgrind did not count: {done.stderr[-2000:]}")
    return int(found[1]) / (BATCH * TURNS)


async def inside(work: str) -> None:
    """Run the path, the part that counts within a call of ffi_call, which is what valgrind waits for."""
    hotpath.BUDGET_NS = _BUDGET_NS
    policy, monitor, ids = hotpath.WORKS[work]
    with tempfile.TemporaryDirectory(prefix="tidegate-instructions-") as name:
        path = hotpath.HotPath(Path(name), BATCH, policy=policy, monitor=monitor, ids=ids)
        for _ in range(models.USERS // BATCH):
            path.turn(BATCH)
        gc.freeze()
        gc.disable()

        def turns() -> None:
            for _ in range(TURNS):
                path.turn(BATCH)

        ctypes.CFUNCTYPE(None)(turns)()
        path.watchdog.stop()


def main() -> int:
    """Count each kind of work, and what it takes beside the plain one."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.instructions", description=__doc__)
    parser.add_argument("--inside", choices=hotpath.WORKS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        asyncio.run(inside(given.inside))
        return 0
    if shutil.which("valgrind") is None:
        print("needs valgrind: apt-get install valgrind", file=sys.stderr)
        return 1
    print(f"hot path {native.in_words()}; {BATCH} requests a turn")
    plain = 0.0
    for work in hotpath.WORKS:
        found = counted(work)
        plain = plain or found
        print(f"{work:15} {found:9,.0f} instructions each, {found - plain:+7,.0f}, {found / plain:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
