"""Sync: one event loop in the background, for code that is not async.

Rule of this file: it is a thin edge. Nothing below knows of it, and nothing is written twice.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Coroutine
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def run_sync(work: Awaitable[T]) -> T:
    """Await something in code that is not async, and return its result: in scripts, notebooks, inside a running loop.

        answer = run_sync(agent.run("Hello", thread=thread))
        turns = run_sync(thread.turns())

    Everything runs on one loop in a background thread. A Ctrl-C cancels the work, waits until it has closed what
    it had open, and is raised then.
    """
    loop = _background_loop()
    if threading.current_thread() is _thread:
        if isinstance(work, Coroutine):
            work.close()
        raise RuntimeError("run_sync was called from a coroutine that run_sync is running; await it instead.")
    ended = threading.Event()
    future = asyncio.run_coroutine_threadsafe(_announced(work, ended), loop)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            ended.wait(timeout=10)
        raise


async def _announced(work: Awaitable[T], ended: threading.Event) -> T:
    try:
        return await work
    finally:
        ended.set()


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_serve, args=(_loop,), name="holdfast-sync", daemon=True)
            _thread.start()
            # Registered now and not at import: what is registered last is called first, and the stores that the
            # coroutines use are closed at exit too.
            atexit.unregister(_stop)
            atexit.register(_stop)
        return _loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        _finish(loop)


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """What asyncio.run does at its end: nothing that was open stays open."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _stop() -> None:
    if _loop is not None and _thread is not None and not _loop.is_closed():
        _loop.call_soon_threadsafe(_loop.stop)
        _thread.join(timeout=5)


def _forget() -> None:
    """A forked child has no such thread: it starts its own."""
    global _loop, _thread, _lock
    _loop, _thread, _lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
