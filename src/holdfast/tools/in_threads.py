"""In threads: a call that blocks, beside the event loop.

Rule of this file: every call has a daemon thread of its own. One that hangs takes no place from another, as it would
in a pool, and does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T], name: str) -> T:
    """What the function returns or raises. It sees the caller's context variables.

    A caller that is cancelled leaves; the thread goes on, and what comes of it is dropped. Raises RuntimeError if no
    thread can be started.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(function)
        except BaseException as error:
            _hand_over(loop, _fail, future, error_of(error))
        else:
            _hand_over(loop, _succeed, future, result)

    threading.Thread(target=work, name=f"holdfast-tool-{name}", daemon=True).start()
    return await future


def error_of(error: BaseException) -> Exception:
    """The error as one that means this call alone.

    What ends a process, cancels a task or stops an iteration would do so to whoever waits for the call.
    """
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    told = RuntimeError(f"the function raised {type(error).__name__}{f': {error}' if str(error) else ''}")
    told.__cause__ = error
    return told


def _hand_over(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(settle, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
        # Nobody is left to be told: the program has closed its event loop while we worked.


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
