"""Waits for a backup that somebody, on whatever node, restores into the store: what was known is of no use then."""

from collections.abc import Awaitable, Callable
from typing import Final

from gateway.store.base import Store
from runtimes.errors import ServingError

LOOK_S: Final = 1.0


async def until_restored(store: Store, known: Callable[[], int], pause: Callable[[float], Awaitable[None]]) -> None:
    """Return once the store has a later life than the known one. One that is away is waited for. Cancel: at once."""
    while True:
        try:
            if await store.life() > known():
                return
        except ServingError:
            pass  # what is away has its own voice
        await pause(LOOK_S)
