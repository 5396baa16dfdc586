"""Threads for asking receivers alone: those that are silent hold up each other, and nothing else of control."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
MOST: Final = 16
_THREADS: Final = ThreadPoolExecutor(MOST, thread_name_prefix="receivers")


async def beside(work: Callable[..., T], *args: object) -> T:
    """Call it in one of these threads. Cancel: a call that has begun ends there."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *args)
