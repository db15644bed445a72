"""Situations: runs and streams, cancelled. On new threads and old ones, alone and where others are at work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

from holdfast import AgentRunStream, HoldfastError, RunCancelledError
from rigs.cancel_model import BEFORE, CALLS, CHATTERS, DRIVEN, FAILS, GUSHES, HELD, STALLS
from rigs.cancel_stage import STORES, Stage, situation, until

HTTP = (*STORES, "private", "http")
RUN, STREAM = "ChatAgent.run", "ChatAgent.run_stream"
READ, RESPONSE = "AgentRunStream.__anext__", "AgentRunStream.response"


# --- alone on the thread -------------------------------------------------------------------------------------------


@situation(RUN, on=HTTP)
async def the_first_run_on_a_new_thread(stage: Stage) -> Awaitable[Any]:
    return stage.run()


@situation(RUN)
async def the_first_run_beside_another_first_run_of_the_handle(stage: Stage) -> Awaitable[Any]:
    other = stage.agent.run(BEFORE, thread=stage.thread)
    stage.may_become((BEFORE,), (BEFORE, DRIVEN), (DRIVEN, BEFORE))

    async def second() -> Any:
        stage.beside(other)
        await asyncio.sleep(0)
        return await stage.run()

    return second()


@situation(RUN, on=HTTP)
async def a_run_on_a_thread_with_turns(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, CALLS)
    return stage.run()


@situation(RUN)
async def a_run_whose_history_is_read_anew(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, "again", CALLS)
    stage.store.cache.clear()
    return stage.run()


@situation(RUN)
async def a_run_on_a_thread_whose_database_was_replaced(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, CALLS)
    for slot, _ in stage.store.cache._slots.values():
        slot.hash = b"another"
    return stage.run()


@situation(RUN, on=("distant",))
async def a_run_whose_seal_is_done_though_the_store_says_it_failed(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.store.lose = True  # type: ignore[attr-defined]
    return stage.run()


@situation(RUN, on=("distant",))
async def a_run_whose_seal_fails(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.left_open = stage.somebody_died = True
    stage.store.fail = True  # type: ignore[attr-defined]
    return stage.run()


@situation(RUN)
async def a_run_on_a_fork_whose_history_is_read_anew(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, CALLS)
    stage.thread = await stage.thread.fork()
    return stage.run()


@situation(RUN, on=HTTP)
async def a_run_without_a_thread(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    return stage.agent.run(DRIVEN)


@situation(RUN, on=HTTP)
async def a_run_in_which_tools_are_called(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, CALLS))
    return stage.run(CALLS)


@situation(RUN, on=HTTP)
async def a_run_that_fails(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, FAILS))
    return stage.run(FAILS)


@situation(RUN)
async def a_run_that_takes_too_long(stage: Stage) -> Awaitable[Any]:
    stage.model.hold = stage.hold
    stage.may_become((), (STALLS,))
    return stage.run(STALLS, timeout=0.02)


@situation(RUN)
async def a_run_from_an_earlier_turn_on(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, "again")
    stage.may_become((BEFORE, "again"), (BEFORE, DRIVEN))
    return stage.run(after=stage.acked[BEFORE].turn_id)


@situation(RUN, on=HTTP)
async def a_run_that_goes_on_by_itself(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.must.append(DRIVEN)
    return stage.run(on_disconnect="continue")


# --- others have the thread ----------------------------------------------------------------------------------------


@situation(RUN)
async def a_run_that_waits_in_line(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.let_go_when_somebody_waits()
    return stage.run()


@situation(RUN)
async def a_run_that_waits_behind_another_one(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.beside(stage.agent.run("second", thread=stage.other_handle()))
    await until(stage.somebody_waits, "the second run stands in line")
    stage.may_become((HELD, "second"), (HELD, "second", DRIVEN))
    stage.let_go_when_somebody_waits()
    return stage.run()


@situation(RUN)
async def a_run_that_waits_and_goes_on_by_itself(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.must.append(DRIVEN)
    stage.let_go_when_somebody_waits()
    return stage.run(on_disconnect="continue")


@situation(RUN)
async def a_run_that_waits_in_vain(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.may_become((HELD,))
    return stage.run(enqueue_timeout=0.02)


@situation(RUN)
async def a_run_that_is_not_to_wait(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.may_become((HELD,))
    return stage.run(on_conflict="reject")


@situation(RUN)
async def a_run_that_interrupts_another_one(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.let_go_when_somebody_waits()
    return stage.run(on_conflict="interrupt")


@situation(RUN)
async def a_run_that_rolls_another_one_back(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.may_become((BEFORE,), (BEFORE, HELD), (BEFORE, DRIVEN), (BEFORE, HELD, DRIVEN))
    return stage.run(on_conflict="rollback")


@situation(RUN)
async def a_run_that_finds_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ", "tw")
    stage.may_become((BEFORE, DRIVEN), (BEFORE, DRIVEN, "next"))
    return stage.run("next")


# --- idempotency keys ----------------------------------------------------------------------------------------------


@situation(RUN)
async def a_retry_of_a_run_that_is_recorded(stage: Stage) -> Awaitable[Any]:
    stage.told(DRIVEN, await stage.agent.run(DRIVEN, thread=stage.thread, idempotency_key="k"))
    stage.may_become((DRIVEN,))
    return stage.run(idempotency_key="k")


@situation(RUN)
async def a_retry_of_a_run_in_flight(stage: Stage) -> Awaitable[Any]:
    await stage.held(idempotency_key="k")
    stage.may_become((HELD,))
    stage.must.append(HELD)

    async def retry() -> Any:
        stage.beside(_release_soon(stage))
        return await stage.run(HELD, idempotency_key="k")

    return retry()


async def _release_soon(stage: Stage) -> None:
    for _ in range(12):
        await asyncio.sleep(0.0005)
    stage.hold.set()


@situation(RUN)
async def a_retry_of_a_run_that_gives_up(stage: Stage) -> Awaitable[Any]:
    """The other one stands in line under the same key, and is cancelled."""
    await stage.held()
    other = stage.beside(stage.agent.run(DRIVEN, thread=stage.other_handle(), idempotency_key="k"))
    await until(stage.somebody_waits, "the other run stands in line")

    async def give_up() -> None:
        await asyncio.sleep(0.003)
        other.cancel()
        await _release_soon(stage)

    async def retry() -> Any:
        stage.beside(give_up())
        return await stage.run(idempotency_key="k")

    return retry()


@situation(RUN)
async def a_retry_of_a_run_that_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ", "tw", key="k")
    return stage.run(idempotency_key="k")


@situation(STREAM, READ)
async def a_stream_of_a_retry_in_flight(stage: Stage) -> Awaitable[Any]:
    await stage.held(idempotency_key="k")
    stage.may_become((HELD,))
    stage.must.append(HELD)

    async def retry() -> None:
        stage.beside(_release_soon(stage))
        async for _ in stage.stream(HELD, idempotency_key="k"):
            pass

    return retry()


# --- streams -------------------------------------------------------------------------------------------------------


@situation(STREAM, READ, on=HTTP)
async def a_stream_that_is_read(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    return stage.read_all(stage.stream())


@situation(STREAM, READ, on=HTTP)
async def a_stream_whose_reader_does_other_things_too(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    return stage.read_all(stage.stream(), lazy=True)


@situation(STREAM, READ, "AgentRunStream.__aenter__", "AgentRunStream.__aexit__", RESPONSE, on=HTTP)
async def a_stream_in_a_with_block(stage: Stage) -> Awaitable[Any]:
    async def read() -> None:
        async with stage.stream() as stream:
            await stage.read_all(stream, lazy=True)
            stage.told(DRIVEN, await stream.response())

    return read()


@situation(STREAM, "AgentRunStream.__aexit__")
async def a_stream_that_is_left_in_the_middle(stage: Stage) -> Awaitable[Any]:
    async def read_half() -> None:
        async with stage.stream() as stream:
            stage.read.setdefault(DRIVEN, []).append((await anext(stream)).text)

    return read_half()


@situation(STREAM, READ, on=HTTP)
async def a_stream_of_which_much_comes_at_once(stage: Stage) -> Awaitable[Any]:
    """Its reader is cancelled between two updates that came in one piece, too."""
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, GUSHES))
    return stage.read_all(stage.stream(GUSHES), GUSHES, lazy=True)


@situation(STREAM, "AgentRunStream.__aexit__", on=HTTP)
async def a_stream_that_is_left_amid_what_came_at_once(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (GUSHES,))

    async def read_some() -> None:
        async with stage.stream(GUSHES) as stream:
            stage.read.setdefault(GUSHES, []).append((await anext(stream)).text)

    return read_some()


@situation(STREAM, RESPONSE, on=HTTP)
async def the_response_of_a_stream_that_nobody_reads(stage: Stage) -> Awaitable[Any]:
    stream = stage.stream(CALLS)
    stage.may_become((), (CALLS,))

    async def respond() -> None:
        stage.told(CALLS, await stream.response())

    return respond()


@situation(STREAM, READ, on=("memory", "slow"))
async def a_stream_that_is_long(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (CHATTERS,))
    return stage.read_all(stage.stream(CHATTERS), CHATTERS)


@situation(STREAM, READ)
async def a_stream_that_goes_on_by_itself(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.must.append(DRIVEN)
    stream = stage.stream(on_disconnect="continue")

    async def read() -> None:
        async with stream:
            async for _ in stream:
                pass

    return read()


@situation(STREAM, "AgentRunStream.cancel", on=HTTP)
async def the_cancel_of_a_stream_that_another_task_reads(stage: Stage) -> Awaitable[Any]:
    return (await _being_read(stage)).cancel()


@situation(STREAM, "AgentRunStream.cancel")
async def the_cancel_of_a_stream_that_goes_on_by_itself(stage: Stage) -> Awaitable[Any]:
    return (await _being_read(stage, on_disconnect="continue")).cancel()


@situation(STREAM, "AgentRunStream.cancel")
async def the_cancel_of_a_stream_that_waits_in_line(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stream = stage.stream(on_disconnect="continue")
    stage.beside(stage.read_all(stream))
    await until(stage.somebody_waits, "the stream stands in line")
    return stream.cancel()


@situation(STREAM, "AgentRunStream.cancel")
async def the_cancel_of_a_stream_from_within_its_turn(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stream = stage.stream()
    stage.model.within = stream.cancel

    async def read() -> None:
        with contextlib.suppress(RunCancelledError):
            await stage.read_all(stream)

    return read()


async def _being_read(stage: Stage, **options: Any) -> AgentRunStream:
    """A stream that another task has read something of."""
    await stage.before()
    stream = stage.stream(**options)
    read = stage.read.setdefault(DRIVEN, [])

    async def reader() -> None:
        with contextlib.suppress(HoldfastError):
            await stage.read_all(stream)

    stage.beside(reader())
    await until(lambda: bool(read), "the stream was read")
    if options:
        del stage.read[DRIVEN]  # what the model said counts there, read or not
    return stream
