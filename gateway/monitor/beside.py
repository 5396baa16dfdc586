"""Threads for asking receivers alone: those that are silent hold up each other, and nothing else of control."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
MOST: Final = 16
_THREADS: Final = ThreadPoolExecutor(MOST, thread_name_prefix="receivers")


async def beside(work: Callable[..., T], *args: object) -> T:
    """Call it in one of these threads. Cancel: a call that has begun ends there.

    Raises:
        OSError: the system gives no thread now, and it was not called; and whatever `work` raises.
    """
    answer: Future[T] = Future()
    try:
        _THREADS.submit(_called, answer, work, args)
    except RuntimeError as error:
        # The pool queues the call before it starts a thread: one that was there may have it in hand already.
        if answer.cancel():
            raise OSError(str(error)) from error
    return await asyncio.wrap_future(answer)


def _called(answer: "Future[T]", work: Callable[..., T], args: tuple[object, ...]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(work(*args))
    except BaseException as error:
        answer.set_exception(error)
