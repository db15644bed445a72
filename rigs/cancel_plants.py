"""Plants for the rig of cancellations: faults that it must report.

Rule of this file: a plant changes a world's store, client or agent, never the library; the judge is told nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from holdfast import AgentRunResponse, ChatAgent
from holdfast.conversation.records import decode_turn, encode_messages, encode_turn
from holdfast.ports.stores import NewTurn, OpenRun, Ready
from rigs.cancel_stage import World


class Plant(Struct, frozen=True):
    """What is done to a world before anything is played in it."""

    change: Callable[[World], None] = lambda world: None


# --- stores --------------------------------------------------------------------------------------------------------


def _at_seal(change: Callable[[NewTurn], NewTurn | None]) -> Callable[[World], None]:
    """A store that seals something else than it was told; or nothing, though it says so."""

    def changed(world: World) -> None:
        store: Any = world.store
        sealed = store.seal

        def seal(run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Any:
            kept = [change(turn) for turn in turns]
            if None in kept:
                return Ready(run.head)
            return sealed(run, kept, **options)

        store.seal = seal

    return changed


def _unless_cancelled(turn: NewTurn) -> NewTurn | None:
    return None if turn.status == "cancelled" else turn


def _without_output(turn: NewTurn) -> NewTurn:
    """As a turn is recorded that forgets what its reader has seen."""
    return _cancelled_with(turn, 0)


def _without_last_result(turn: NewTurn) -> NewTurn:
    return _cancelled_with(turn, -1) if b'"tool_result"' in turn.record else turn


def _cancelled_with(turn: NewTurn, messages: int) -> NewTurn:
    if turn.status != "cancelled":
        return turn
    was = decode_turn(turn.record, turn_id=turn.turn_id, seq=1, status=turn.status, started_us=0, ended_us=0)
    return replace(turn, record=encode_turn(encode_messages(was.input), was.output[:messages]))


def _keeps_tickets(world: World) -> None:
    """A store in which who has left the line still stands there."""
    store: Any = world.store
    store.withdraw = lambda thread_id, turn_id: Ready(None)


def _keeps_holders(world: World) -> None:
    """A cache that does not forget who has a thread."""

    class Kept(dict[Any, Any]):
        def pop(self, *_: Any) -> None:
            return None

    store: Any = world.store
    store.cache.holders = Kept()


# --- agents and clients --------------------------------------------------------------------------------------------


def _on_cancel(act: Callable[[Any, str], Any]) -> Callable[[World], None]:
    """An agent that does something of its own when its run is cancelled. What it returns is returned, if anything."""

    class Acting(ChatAgent):
        __slots__ = ()

        async def run(self, messages: Any, **options: Any) -> Any:
            try:
                return await super().run(messages, **options)
            except asyncio.CancelledError:
                found = act(lambda: super(Acting, self).run(messages, **options), messages)
                if asyncio.iscoroutine(found):
                    found = await found
                if found is not None:
                    return found
                raise

    def changed(world: World) -> None:
        world.agent = Acting(world.agent.client, thread_store=world.store, runtime=world.runtime)

    return changed


def _swallows(_: Any, text: str) -> AgentRunResponse:
    return AgentRunResponse((), f"turn_{text}", "thread_x", "cancelled")


def _fails_unseen(_: Any, text: str) -> None:
    async def fail() -> None:
        raise ValueError(f"nobody asks what became of {text}")

    asyncio.get_running_loop().create_task(fail())


def _forgets_to_await(_: Any, text: str) -> None:
    async def clear_up() -> None:
        await asyncio.sleep(0)

    clear_up()  # type: ignore[unused-coroutine]


def _leaves_a_task(_: Any, text: str) -> None:
    asyncio.get_running_loop().create_task(asyncio.sleep(3600), name=f"left by {text}")


def _leaves_a_file(_: Any, text: str) -> None:
    os.open(os.devnull, os.O_RDONLY)


async def _says_it_again(run: Callable[[], Any], text: str) -> None:
    await run()


def _leaves_connections(world: World) -> None:
    """A client that does not notice that nobody reads it any more."""
    model = world.model
    asked = model.ask

    async def ask(request: Any) -> Any:
        try:
            async for updates in asked(request):
                yield updates
        except (asyncio.CancelledError, GeneratorExit):
            model.open += 1
            raise

    model.ask = ask  # type: ignore[method-assign]


PLANTS: Mapping[str, Plant] = {
    "none": Plant(),
    "cancelled-not-sealed": Plant(_at_seal(_unless_cancelled)),
    "cancelled-without-output": Plant(_at_seal(_without_output)),
    "cancelled-without-result": Plant(_at_seal(_without_last_result)),
    "ticket-kept": Plant(_keeps_tickets),
    "holder-kept": Plant(_keeps_holders),
    "cancellation-swallowed": Plant(_on_cancel(_swallows)),
    "error-never-retrieved": Plant(_on_cancel(_fails_unseen)),
    "never-awaited": Plant(_on_cancel(_forgets_to_await)),
    "task-left": Plant(_on_cancel(_leaves_a_task)),
    "file-left": Plant(_on_cancel(_leaves_a_file)),
    "said-again": Plant(_on_cancel(_says_it_again)),
    "connection-left": Plant(_leaves_connections),
}
