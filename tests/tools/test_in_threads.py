"""Blocking calls: beside the event loop, and in nobody's way."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from typing import Any

import pytest

from holdfast.tools.in_threads import in_thread


async def test_a_blocking_call_leaves_the_event_loop_free() -> None:
    go = threading.Event()
    call = asyncio.create_task(in_thread(lambda: go.wait(30), "it"))
    await asyncio.sleep(0)
    assert not call.done()
    go.set()
    assert await call is True


async def test_it_sees_the_context_of_its_caller_and_changes_only_its_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    variable.set("outside")

    def look() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    assert await in_thread(look, "it") == "outside"
    assert variable.get() == "outside"


async def test_many_calls_that_hang_do_not_keep_another_from_running() -> None:
    hang = threading.Event()
    calls = [asyncio.create_task(in_thread(hang.wait, "hung")) for _ in range(50)]
    await asyncio.sleep(0)
    assert await in_thread(lambda: "through", "it") == "through"
    hang.set()
    await asyncio.gather(*calls)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_is_cancelled_leaves_and_the_result_is_dropped(fails: bool) -> None:
    go = threading.Event()
    threads: list[threading.Thread] = []
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))

    def work() -> None:
        threads.append(threading.current_thread())
        go.wait(30)
        if fails:
            raise LookupError("nobody hears this")

    call = asyncio.create_task(in_thread(work, "it"))
    while not threads:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go.set()
    await asyncio.to_thread(threads[0].join, 30)
    await asyncio.sleep(0)  # what the thread has handed over is now taken, and dropped
    assert not complaints


def test_an_event_loop_that_is_closed_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    errors: list[threading.ExceptHookArgs] = []
    threads: list[threading.Thread] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)

    def work() -> None:
        threads.append(threading.current_thread())
        go.wait(30)

    async def leave() -> None:
        call = asyncio.create_task(in_thread(work, "it"))
        while not threads:
            await asyncio.sleep(0.001)
        call.cancel()

    asyncio.run(leave())
    go.set()
    threads[0].join(30)
    assert not threads[0].is_alive()
    assert not errors


def test_a_call_that_hangs_does_not_keep_the_process_alive() -> None:
    code = (
        "import asyncio, threading\n"
        "from holdfast.tools.in_threads import in_thread\n"
        "async def main():\n"
        "    call = asyncio.create_task(in_thread(threading.Event().wait, 'hung'))\n"
        "    await asyncio.sleep(0.01)\n"
        "    call.cancel()\n"
        "asyncio.run(main())\n"
        "print('over')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "over\n"
    assert not done.stderr
