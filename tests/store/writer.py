"""Writes to a store and says what was acknowledged, until it is killed: `python -m tests.store.writer FILE`."""

import asyncio
import sys
from pathlib import Path

from gateway.store.sqlite import open_sqlite


async def main(path: Path) -> None:
    """One line for each acknowledged write: its name and revision."""
    store = await open_sqlite(path)
    number = 0
    while True:
        number += 1
        name = f"n{number % 5}"
        document = await store.put(
            "policy", name, b"%d" % number, expected=None, audit={"actor": "writer", "n": number}
        )
        await store.stream_append("s", "writer", 1, number, b"x")
        print(name, document.revision, number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
