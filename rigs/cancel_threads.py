"""Situations: what is done with threads, cancelled: reading, keeping, moving, following, going on with others' runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from typing import Any

from holdfast import AgentThread, ChatMessage, RunCancelledError
from rigs.cancel_model import BEFORE, DRIVEN, HELD
from rigs.cancel_stage import STORES, Stage, situation, until

WITH_PRIVATE = (*STORES, "private")
AGAIN = "again"


# --- answering again, going on -------------------------------------------------------------------------------------


@situation("ChatAgent.regenerate", on=(*WITH_PRIVATE, "http"))
async def the_last_answer_again(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, DRIVEN)
    stage.times[DRIVEN] = 2
    stage.may_become((BEFORE, DRIVEN))
    return stage.agent.regenerate(stage.thread)


@situation("ChatAgent.regenerate_stream", "AgentRunStream.__anext__")
async def the_last_answer_again_as_a_stream(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, DRIVEN)
    stage.times[DRIVEN] = 2
    stage.may_become((BEFORE, DRIVEN))

    async def read() -> None:
        async for _ in stage.agent.regenerate_stream(stage.thread):
            pass

    return read()


@situation("ChatAgent.resume")
async def going_on_with_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ", "tw")
    return stage.agent.resume(stage.thread)


@situation("ChatAgent.resume")
async def nothing_to_go_on_with(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.agent.resume(stage.thread)


@situation("ChatAgent.resume")
async def going_on_by_itself_with_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ", "tw")
    return stage.agent.resume(stage.thread, on_disconnect="continue")


@situation("ChatAgent.resume_stream", "AgentRunStream.__anext__", "AgentRunStream.response")
async def going_on_as_a_stream(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ", "tw")

    async def read() -> None:
        async with stage.agent.resume_stream(stage.thread) as stream:
            async for _ in stream:
                pass
            await stream.response()

    return read()


# --- reading and keeping -------------------------------------------------------------------------------------------


@situation("AgentThread.turns", on=WITH_PRIVATE)
async def reading_turns(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    stage.may_become((BEFORE, AGAIN))
    return stage.other_handle().turns()


@situation("AgentThread.turns")
async def reading_turns_beside_the_first_run_of_the_handle(stage: Stage) -> Awaitable[Any]:
    stage.may_become((BEFORE,))

    async def read() -> Any:
        stage.beside(stage.agent.run(BEFORE, thread=stage.thread))
        await asyncio.sleep(0)
        return await stage.thread.turns()

    return read()


@situation("AgentThread.turns", on=("distant",))
async def reading_many_turns(stage: Stage) -> Awaitable[Any]:
    texts = tuple(f"n{n}" for n in range(260))  # more than are read at once
    await stage.thread.add_messages([message for text in texts for message in _turn(text)])
    stage.may_become(texts)
    return stage.other_handle().turns()


@situation("AgentThread.messages")
async def reading_messages(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.thread.messages()


@situation("AgentThread.info")
async def looking_at_a_thread(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.other_handle().info()


@situation("AgentThread.serialize", on=WITH_PRIVATE)
async def serializing(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.other_handle().serialize()


@situation("ChatAgent.deserialize_thread", on=WITH_PRIVATE)
async def deserializing(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    state = json.loads(json.dumps(await stage.thread.serialize()))

    async def made_again() -> None:
        stage.thread = await stage.agent.deserialize_thread(state)

    return made_again()


@situation("AgentThread.add_messages", on=WITH_PRIVATE)
async def adopting_a_transcript(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, "x", "y"))
    return stage.thread.add_messages(_transcript())


@situation("AgentThread.add_messages")
async def adopting_a_transcript_in_line(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.may_become((HELD,), (HELD, "x", "y"))
    stage.let_go_when_somebody_waits()
    return stage.other_handle().add_messages(_transcript())


def _transcript() -> list[ChatMessage]:
    return [*_turn("x"), *_turn("y")]


def _turn(text: str) -> list[ChatMessage]:
    return [ChatMessage("user", text=text), ChatMessage("assistant", text=f"You said: {text}")]


@situation("AgentThread.update", on=WITH_PRIVATE)
async def naming_a_thread(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.other_handle().update(title="A talk", metadata={"a": 1})


# --- moving --------------------------------------------------------------------------------------------------------


@situation("AgentThread.fork", on=WITH_PRIVATE)
async def forking(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    stage.may_become((BEFORE, AGAIN))
    return stage.thread.fork(at=stage.acked[BEFORE].turn_id)


@situation("AgentThread.rewind", on=WITH_PRIVATE)
async def rewinding(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    stage.may_become((BEFORE, AGAIN), (BEFORE,))
    return stage.thread.rewind()


@situation("AgentThread.rewind")
async def rewinding_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ")
    stage.may_become((BEFORE, DRIVEN), (BEFORE,))
    return stage.thread.rewind()


@situation("AgentThread.rewind")
async def rewinding_an_open_run_in_vain(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.may_become((BEFORE, HELD))
    return stage.other_handle().rewind()


@situation("AgentThread.rewind")
async def rewinding_an_open_run(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.may_become((BEFORE, HELD), (BEFORE,))
    return stage.other_handle().rewind(interrupt=True)


@situation("AgentThread.branches", on=WITH_PRIVATE)
async def listing_branches(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    await stage.thread.rewind()
    stage.may_become((BEFORE,))
    return stage.thread.branches()


@situation("AgentThread.switch", on=WITH_PRIVATE)
async def switching(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    await stage.thread.rewind()
    stage.may_become((BEFORE,), (BEFORE, AGAIN))
    return stage.thread.switch(stage.acked[AGAIN].turn_id)


@situation("AgentThread.switch")
async def switching_from_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    await stage.thread.rewind()
    stage.may_become((BEFORE,))
    await stage.left_over("one ")
    stage.may_become((BEFORE, DRIVEN), (BEFORE, AGAIN))
    return stage.thread.switch(stage.acked[AGAIN].turn_id)


@situation("AgentThread.delete")
async def deleting(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((), (BEFORE,))
    stage.may_be_gone = True
    return stage.thread.delete()


@situation("AgentThread.delete")
async def deleting_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.left_over("one ")
    stage.may_become((), (BEFORE, DRIVEN))
    stage.may_be_gone = True
    return stage.thread.delete()


@situation("AgentThread.delete")
async def deleting_beside_an_open_run(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.may_become((), (BEFORE, HELD))
    stage.may_be_gone = True
    return stage.other_handle().delete(interrupt=True)


# --- a run that somebody else makes --------------------------------------------------------------------------------


@situation("AgentThread.cancel")
async def stopping_a_run(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.may_become((BEFORE, HELD))
    return stage.other_handle().cancel()


@situation("AgentThread.cancel", on=("distant",))
async def stopping_a_run_that_cannot_be_recorded(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    await stage.held()
    stage.may_become((BEFORE, HELD))
    stage.left_open = stage.somebody_died = True  # whoever could not record it has let go, and others close it
    stage.store.fail = True  # type: ignore[attr-defined]
    return stage.other_handle().cancel()


@situation("AgentThread.cancel")
async def stopping_nothing(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.thread.cancel()


@situation("AgentThread.cancel", "ChatAgent.run")
async def a_run_that_others_stop(stage: Stage) -> Awaitable[Any]:
    """The one that is cancelled is the one that is stopped."""
    stage.model.hold = stage.hold
    stage.may_become((), (HELD,))

    async def stop() -> None:
        await until(lambda: bool(stage.model.open) or stage.hold.is_set(), None)
        await stage.other_handle().cancel()

    async def run() -> None:
        stage.beside(stop())
        with contextlib.suppress(RunCancelledError):
            await stage.run(HELD)

    return run()


@situation("AgentThread.follow", "TurnFollower.__anext__")
async def following_a_run(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.may_become((HELD,))
    stage.must.append(HELD)
    turn_id = await _turn_in_flight(stage)

    async def follow() -> None:
        follower = stage.other_handle().follow(turn_id)
        await anext(follower)
        stage.hold.set()
        async for _ in follower:
            pass

    return follow()


@situation("AgentThread.follow", "TurnFollower.__anext__", on=WITH_PRIVATE)
async def following_a_turn_that_has_ended(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return _followed(stage.thread, stage.acked[BEFORE].turn_id)


@situation("AgentThread.follow", "TurnFollower.__anext__")
async def following_what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    left = await stage.left_over("one ", "tw")
    return _followed(stage.thread, left.turn_id)


async def _followed(thread: AgentThread, turn_id: str) -> None:
    async for _ in thread.follow(turn_id, grace=0.0):
        pass


async def _turn_in_flight(stage: Stage) -> str:
    found: list[str] = []
    holders: Any = stage.store.cache.holders

    def look() -> bool:
        found[:] = [run.turn_id for (_, thread), run in holders.items() if thread == stage.thread.id]
        return bool(found)

    await until(look, "the other run has the thread")
    return found[0]
