"""How tests of Redis open stores, wait for them and start servers."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.store.base import StoreAway
from gateway.store.redisstore import open_redis
from tests.store.places import RedisServer

WHO = {"actor": "ann"}
# Beside the time-out of 250 ms: a busy machine.
SOON_S = 5.0


def run(work: Coroutine[Any, Any, None]) -> None:
    """With a bound."""

    async def go() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(go())


@asynccontextmanager
async def opened(url: str, **settings: Any) -> Any:
    store = await open_redis(url, **settings)
    try:
        yield store
    finally:
        await store.close()


async def again(call: Callable[[], Coroutine[Any, Any, Any]], bound_s: float = 20) -> Any:
    """Until the store is there; the wait between is the one that it asks for."""
    async with asyncio.timeout(bound_s):
        while True:
            try:
                return await call()
            except StoreAway as error:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), error.retry_after_s)


async def away_s(call: Coroutine[Any, Any, Any]) -> float:
    """How long it took until the store was said to be away."""
    began = time.monotonic()
    with pytest.raises(StoreAway):
        await call
    return time.monotonic() - began


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, "--save", "", *arguments)
    try:
        server.start()
        yield server
    finally:
        server.stop()
