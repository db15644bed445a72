"""Plants for the rig of moves: stores, models and actors that it must report.

Rule of this file: a plant changes a store that was made for it, or is a subclass; the library is left alone, and the
oracle is told nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from holdfast import ChatMessage
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.conversation.records import decode_turn, encode_messages, encode_turn
from holdfast.ports.stores import Head, NewTurn, OpenRun, Ready, Terms
from rigs import moves_actors
from rigs.moves_actors import Company
from rigs.moves_model import MODEL, Model


class Plant(Struct, frozen=True):
    """The kind of company, and what is done to its stores before anybody acts."""

    company: type[Company] = Company
    change: Callable[[Any], None] = lambda store: None


# --- stores --------------------------------------------------------------------------------------------------------


def _opens_with(change: Callable[[Terms], Terms]) -> Callable[[Any], None]:
    """A store that opens runs on other terms than it was asked for."""

    def changed(store: Any) -> None:
        opened = store.open_run

        def open_run(*args: Any, **options: Any) -> Any:
            if "terms" in options:
                options["terms"] = change(options["terms"])
            return opened(*args, **options)

        store.open_run = open_run

    return changed


def _seals(change: Callable[[NewTurn], NewTurn | None], every: int) -> Callable[[Any], None]:
    """A store that keeps every n-th turn otherwise than it was told, or not at all."""

    def changed(store: Any) -> None:
        sealed, numbers = store.seal, itertools.count(1)

        def seal(run: OpenRun, turns: Sequence[NewTurn], *, stand: Head | None = None) -> Any:
            if next(numbers) % every or not turns:
                return sealed(run, turns, stand=stand)
            kept = [turn for turn in map(change, turns) if turn is not None]
            return sealed(run, kept, stand=stand if kept else None)

        store.seal = seal

    return changed


def _cut(turn: NewTurn) -> NewTurn:
    """What is recorded lacks its end."""
    was = decode_turn(turn.record, turn_id=turn.turn_id, seq=1, status=turn.status, started_us=0, ended_us=0)
    output = [ChatMessage(message.role, text=message.text[:-4]) for message in was.output if len(message.text) > 4]
    return replace(turn, record=encode_turn(encode_messages(was.input), output))


def _forks_at_the_head(store: Any) -> None:
    """A fork begins where its source stands, wherever it was to begin."""
    forked = store.fork
    store.fork = lambda thread_id, new_id, *, at=None, incarnation=None: forked(thread_id, new_id)


def _keeps_tickets(store: Any) -> None:
    moves_actors.PATIENCE = 1.0
    store.withdraw = lambda thread_id, turn_id: Ready(None)


def _loses_branches(store: Any) -> None:
    """Listing branches fails in its own words, now and then."""
    listed, numbers = store.branches, itertools.count(1)

    def branches(*args: Any, **options: Any) -> Any:
        if next(numbers) % 2 == 0:
            raise KeyError("no such branch")
        return listed(*args, **options)

    store.branches = branches


def _loses_progress(store: Any) -> None:
    """Who looks how far a turn has come is told nothing of its end."""
    looked = store.progress

    def progress(*args: Any, **options: Any) -> Any:
        async def look() -> Any:
            found = await looked(*args, **options)
            if found is None or found.turn is None:
                return found
            return replace(found, turn=_as_stored(found.turn))

        return look()

    store.progress = progress


def _as_stored(turn: Any) -> Any:
    kept = _cut(NewTurn(turn.turn_id, turn.status, turn.record, 0, 0))
    return replace(turn, record=kept.record)


def _waits_for_ever(store: Any) -> None:
    """Nobody is ever told that a thread is free."""
    moves_actors.PATIENCE = 1.0

    async def wait(*_: Any, **__: Any) -> None:
        await asyncio.sleep(3600)

    store.wait = wait


# --- models --------------------------------------------------------------------------------------------------------


class _ForgetfulCodec(ChatCompletionsCodec):
    """Leaves out what an assistant has said of some texts."""

    __slots__ = ()

    def message(self, message: ChatMessage) -> bytes:
        return b"" if message.role == "assistant" and "7:" in message.text else super().message(message)


class _Forgetful(Model):
    codec = _ForgetfulCodec(MODEL)


class _WithForgetful(Company):
    model_class = _Forgetful


PLANTS: Mapping[str, Plant] = {
    "none": Plant(),
    "keys-forgotten": Plant(change=_opens_with(lambda terms: replace(terms, key=None))),
    "places-forgotten": Plant(change=_opens_with(lambda terms: replace(terms, point=None))),
    "turn-lost": Plant(change=_seals(lambda turn: None, 10)),
    "turn-cut": Plant(change=_seals(_cut, 10)),
    "forks-at-the-head": Plant(change=_forks_at_the_head),
    "ticket-kept": Plant(change=_keeps_tickets),
    "untyped-error": Plant(change=_loses_branches),
    "followers-misled": Plant(change=_loses_progress),
    "nobody-called": Plant(change=_waits_for_ever),
    "answers-not-told": Plant(_WithForgetful),
}
