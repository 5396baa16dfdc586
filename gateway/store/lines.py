"""Lines that many writers add to and nobody changes: bounded, searched, removed one by one. Only Redis has them."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

LINE_BYTES: Final = 64 * 1024
PART_LINES: Final = 500
PART_BYTES: Final = 128 * 1024
"""Of one call, a line beyond it alone excepted: it must be in Redis within its time-out, over a slow network too."""

Wanted = Callable[[bytes], bool]


class Lines(Protocol):
    """Every method may raise StoreAway and StoreUnusable, and ValueError for what no caller should send."""

    async def append(self, sender: str, sequence: int, lines: Sequence[bytes], most: int) -> bool:
        """Keep all of these lines or none; False = this sequence of the sender, or a later one, was there before.

        Args:
            sender: one writer, never used again by another; it has one call under way.
            sequence: grows with each part that was kept. The same part under the same number may be sent again.
            most: lines kept, about; beyond them the oldest go.
        """

    async def find(self, needle: bytes, wanted: Wanted, most: int) -> list[bytes]:
        """The last lines that hold the needle and are wanted, oldest first."""

    async def remove(self, needle: bytes, wanted: Wanted) -> int:
        """Forget all lines that hold the needle and are wanted; how many there were."""
