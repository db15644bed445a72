"""Threads: one conversation, as its user holds it.

Rule of this file: a thread is a handle. All that is said is in the store; nothing here grows with the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from msgspec import UNSET, Struct, UnsetType

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.errors import InvalidInputError, SchemaVersionError, ThreadBusyError, TurnNotFoundError
from holdfast.conversation.ids import checked_thread_id, checked_turn_id
from holdfast.conversation.messages import ChatMessage, is_blank
from holdfast.conversation.records import encode_messages, encode_turn
from holdfast.conversation.turns import Turn, TurnStatus, checked_pairs, counts, split_into_turns
from holdfast.engine.approving import requests_on
from holdfast.engine.following import GRACE_SECONDS, TurnFollower
from holdfast.engine.handles import Handle, not_found_error
from holdfast.engine.history import check_end, chunks, decoded
from holdfast.engine.leases import Wish, acquire, release
from holdfast.engine.recovery import NOTHING, close_left_over, settle
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import Intent, NewTurn, OpenRun, Segment, StoredTurn, Terms, ThreadInfo, ThreadStore

# Says what a serialized thread is, and in which form.
STATE_TYPE = "holdfast.thread"
STATE_VERSION = 1

# Seconds after which a run that was asked to end is given up; one of a process that hangs loses its lease before.
PATIENCE_SECONDS = 30.0
# Seconds between the looks whether a thread that seemed taken still is.
MOMENTS = (0.0, 0.01, 0.04)


class AddedMessages(Struct, frozen=True):
    """What `add_messages` did: the ids of the turns, and what it mended in words (empty without `repair`)."""

    turn_ids: tuple[str, ...]
    mended: tuple[str, ...] = ()


class Branch(Struct, frozen=True):
    """One of a thread's branches, named by its last turn. It holds `turns` turns, those before it began included.

    `parts_after` is the turn after which it begins (None: at the beginning); the thread stands on the `current` one.
    """

    turn_id: str
    turns: int
    parts_after: str | None
    current: bool
    ended_us: int

    @property
    def ended_at(self) -> datetime:
        """When its last turn was sealed."""
        return datetime.fromtimestamp(self.ended_us / 1e6, UTC)


class AgentThread(Handle):
    """One conversation. Made by an agent; passed to each run; any agent may run on it.

    `.id` is unique in its store. A thread that was made without a store lives in memory and dies with this object.
    """

    __slots__ = ("_private", "_runtime")

    def __init__(
        self,
        store: ThreadStore | None = None,
        thread_id: str | None = None,
        *,
        intent: Intent = "new",
        incarnation: int | None = None,
        runtime: Runtime = SYSTEM,
    ) -> None:
        checked = runtime.new_id("thread") if thread_id is None else checked_thread_id(thread_id)
        super().__init__(store if store is not None else _private_store(runtime), checked, intent, incarnation)
        self._private = store is None
        self._runtime = runtime

    def __repr__(self) -> str:
        return f"AgentThread({self.id!r} in {self.store.location})"

    # --- reading -----------------------------------------------------------------------------------------------

    async def turns(self, last: int | None = None) -> list[Turn]:
        """The turns on this thread's history, oldest first; only the `last` ones if asked.

        Raises ThreadNotFoundError, ThreadDeletedError, DamagedError (which names the turn).
        """
        if last is not None and (type(last) is not int or last < 1):
            raise InvalidInputError(f"last is a number of turns, at least 1; got {last!r}.", thread_id=self.id)
        return [decoded(turn) for turn in await self._stored_turns(last)]

    async def messages(self) -> list[ChatMessage]:
        """The messages of the conversation, oldest first.

        Left out are only those of failed turns in which nothing happened: they are not part of what is said.
        """
        return [message for turn in await self.turns() if counts(turn) for message in turn.messages]

    async def _stored_turns(self, last: int | None = None) -> list[StoredTurn]:
        info = await self.info()
        if info is None:
            return []
        found: list[StoredTurn] = []
        first = 0 if last is None else max(0, info.head.seq - last)
        for segment in await self.store.lineage(info.head):
            wanted = Segment(segment.branch, max(segment.after, first), segment.upto)
            async for turns in chunks(self.store, wanted):
                found.extend(turns)
        check_end(found[-1] if found else None, info.head)
        return found

    # --- keeping -----------------------------------------------------------------------------------------------

    async def serialize(self) -> dict[str, Any]:
        """The thread as plain data for `json.dumps`; `agent.deserialize_thread` makes a handle of it again.

        Of a thread in a store (a MemoryStore too) it is the id; one that was given no store goes with all its turns.
        """
        state: dict[str, Any] = {"type": STATE_TYPE, "version": STATE_VERSION, "id": self.id}
        if not self._private:
            if self.incarnation is None:
                await self.info()
            return {**state, "stored": True, "intent": self.intent, "incarnation": self.incarnation}
        turns = [_turn_state(turn) for turn in await self._stored_turns()]
        return {**state, "turns": turns}

    async def add_messages(
        self, messages: ChatMessage | Sequence[ChatMessage], *, repair: bool = False
    ) -> AddedMessages:
        """Adopt a transcript: its messages become completed turns at the end of this thread. All of them or none.

        A turn begins at each user message. Tool calls and results must pair up; with `repair` what does not is
        closed or left out, and the result says what was mended.
        Raises InvalidInputError, and what opening a run raises.
        """
        if not isinstance(messages, (ChatMessage, Iterable)):
            raise InvalidInputError(f"A transcript is a list of ChatMessages; got {type(messages).__name__}.")
        given = [messages] if isinstance(messages, ChatMessage) else list(messages)
        for message in given:
            if not isinstance(message, ChatMessage):
                raise InvalidInputError(f"A transcript is made of ChatMessages; got {type(message).__name__}.")
        paired, mended = checked_pairs([message for message in given if not is_blank(message)], repair=repair)
        turns = [self._adopted(said, answered) for said, answered in split_into_turns(paired)]
        if turns:
            await self._append(turns)
        return AddedMessages(tuple(turn.turn_id for turn in turns), tuple(mended))

    def _adopted(self, said: list[ChatMessage], answered: list[ChatMessage]) -> NewTurn:
        now = self._runtime.now_us()
        record = encode_turn(encode_messages(said), answered)
        return NewTurn(self._runtime.new_id("turn"), "completed", record, now, now)

    async def _append(self, turns: Sequence[NewTurn]) -> None:
        """Put finished turns at the end, as a run that needs no model."""
        writer = _Writer()
        wish = Wish(turns[0].turn_id, NOTHING, Terms(), "enqueue", None, self._runtime)
        run = await acquire(self, writer, wish)
        assert isinstance(run, OpenRun)  # without a key no other turn can be meant
        try:
            await self.store.seal(run, turns)
        finally:
            release(self, writer)

    async def update(
        self, *, title: str | UnsetType | None = UNSET, metadata: Mapping[str, Any] | UnsetType | None = UNSET
    ) -> ThreadInfo:
        """Set the title or the metadata (JSON-able, replaced as a whole); what is not given stays.

        Raises ThreadNotFoundError before the first turn, InvalidInputError, ThreadDeletedError.
        """
        if await self.info() is None:
            raise not_found_error(self.id, self.store.location)
        return await self.store.update(self.id, title=title, metadata=metadata)

    # --- moving ------------------------------------------------------------------------------------------------

    async def fork(self, at: str | None = None, thread_id: str | None = None) -> AgentThread:
        """A new thread that begins where this one stands, or after its turn `at` (a turn id). Copies nothing.

        What either says afterwards is unknown to the other.
        Raises TurnNotFoundError, ThreadExistsError, ThreadNotFoundError, ThreadDeletedError.
        """
        if at is not None:
            checked_turn_id(at)
        new_id = self._runtime.new_id("thread") if thread_id is None else checked_thread_id(thread_id)
        intent: Intent = "existing"
        incarnation = None
        if await self.info() is not None:
            incarnation = (await self.store.fork(self.id, new_id, at=at, incarnation=self.incarnation)).incarnation
        elif at is None:
            intent = "new"  # nothing was said yet: the fork of an empty thread is another empty thread
        else:
            raise TurnNotFoundError(f"Thread {self.id!r} has no turns yet, so none {at!r}.", thread_id=self.id)
        fork = AgentThread(self.store, new_id, intent=intent, incarnation=incarnation, runtime=self._runtime)
        fork._private = self._private
        return fork

    async def rewind(self, turns: int | None = None, *, to: str | None = None, interrupt: bool = False) -> None:
        """Go back by `turns` turns (1 if nothing is said; failed ones count too), or to right after the turn `to`.

        Nothing is lost: the turns stay in the store, and what is said next begins a new branch (see `branches`).
        Raises InvalidInputError, TurnNotFoundError; ThreadBusyError while a run goes on, which `interrupt` ends.
        """
        if to is not None:
            checked_turn_id(to)
        if to is not None and turns is not None:
            raise InvalidInputError("Rewind by a number of turns or to a turn id, not both.", thread_id=self.id)
        back = 0 if to is not None else 1 if turns is None else turns
        if to is None and (type(back) is not int or back < 1):
            raise InvalidInputError(f"Rewind by a number of turns, at least 1; got {back!r}.", thread_id=self.id)
        if await self.info() is None and to is None:
            raise InvalidInputError(f"Thread {self.id!r} has no turns to rewind.", thread_id=self.id)

        def move() -> Awaitable[ThreadInfo]:
            return self.store.move_head(self.id, back=back, to=to, incarnation=self.incarnation)

        await self._if_nobody_runs(move, interrupt=interrupt)

    async def branches(self) -> list[Branch]:
        """The branches of this conversation, the newest first: the one that it stands on, and those that were left.

        A branch is left where a turn is answered again, or the thread is rewound and something else is said.
        `switch` goes to another. Raises ThreadNotFoundError, ThreadDeletedError.
        """
        if await self.info() is None:
            return []
        tips = await self.store.branches(self.id, incarnation=self.incarnation)
        return [Branch(tip.turn_id, tip.seq, tip.parts_after, tip.current, tip.ended_us) for tip in tips]

    async def switch(self, turn_id: str, *, interrupt: bool = False) -> None:
        """Stand right after a turn of any of this thread's branches. Nothing is lost: the turns left stay.

        Raises TurnNotFoundError; ThreadBusyError while a run goes on, which `interrupt` ends.
        """
        checked_turn_id(turn_id)
        if await self.info() is None:
            raise TurnNotFoundError(f"Thread {self.id!r} has no turns yet, so none {turn_id!r}.", thread_id=self.id)

        def move() -> Awaitable[ThreadInfo]:
            return self.store.move_head(self.id, to=turn_id, incarnation=self.incarnation, anywhere=True)

        await self._if_nobody_runs(move, interrupt=interrupt)

    # --- a run that somebody else makes ------------------------------------------------------------------------

    def follow(self, turn_id: str, *, after: str | None = None, grace: float = GRACE_SECONDS) -> TurnFollower:
        """What a turn of this thread says, while it is made or afterwards, from whichever task or process.

        `after` is a stream's (or follower's) `.cursor`: exactly what was said after it is given. Should the process
        that makes the turn die, it is closed as interrupted after `grace` seconds in which nobody resumes it.
        Raises InvalidInputError for what is no cursor; TurnNotFoundError where it is read.
        """
        if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not grace >= 0:
            raise InvalidInputError(f"grace is a number of seconds, 0 or more; got {grace!r}.", thread_id=self.id)
        return TurnFollower(self, checked_turn_id(turn_id), after=after, grace=grace, runtime=self._runtime)

    async def cancel(self, turn_id: str | None = None) -> bool:
        """End the run that is being made on this thread, in whichever task or process; return when it is recorded.

        Its turn is cancelled with what was said; whoever runs it gets RunCancelledError. With `turn_id` only if it is
        that turn. What a dead process has left open is closed as interrupted. False if there was none. Runs that stand
        in line come next. Raises ThreadBusyError if the process that makes the run is alive, and does not react.
        """
        if turn_id is not None:
            checked_turn_id(turn_id)
        info = await self.info()
        running = info.busy if info is not None else None
        if running is None or turn_id not in (None, running):
            return False
        pause, until = 0.002, self._runtime.monotonic() + PATIENCE_SECONDS
        while self._runtime.monotonic() < until:
            made = await self.store.stop(self.id, running)
            if made:
                await self._runtime.sleep(pause)
            progress = await self.store.progress(self.id, running)
            if progress is None or progress.run is None:
                return True
            if progress.run.waiting:
                await close_left_over(self, progress.run, self._runtime)
            elif not progress.alive:
                await settle(self, self._runtime)
            pause = min(2 * pause, 0.25)
        raise ThreadBusyError(
            f"Turn {running} on thread {self.id!r} was asked to end {PATIENCE_SECONDS:.0f} s ago and has not: the "
            "process that makes it is alive and does not react. End that process; the next run then goes on.",
            thread_id=self.id,
            turn_id=running,
        )

    async def approvals(self) -> list[ApprovalRequest]:
        """The tool calls that wait to be allowed on this thread, whichever process asked; [] if none does.

        Answer with `agent.run([request.approve(), ...], thread=thread)`; to say something else closes them.
        """
        return await requests_on(self)

    async def delete(self, *, interrupt: bool = False) -> None:
        """Delete the thread and the bytes of its turns, except those that forks of it still reach.

        Handles on it raise ThreadDeletedError from now on. While a run goes on ThreadBusyError is raised; `interrupt`
        ends that run first.
        """
        if await self.info() is None:
            return

        def delete() -> Awaitable[bool]:
            return self.store.delete(self.id, incarnation=self.incarnation, interrupt=interrupt)

        await self._if_nobody_runs(delete, interrupt=interrupt)

    async def _if_nobody_runs(self, change: Callable[[], Awaitable[object]], *, interrupt: bool) -> None:
        """Make a change that an open run forbids; a run that only a dead process left is closed first.

        Somebody else may be closing it at this moment, and looks alive while it does: hence another look or two.
        """
        until = self._runtime.monotonic() + PATIENCE_SECONDS
        pauses = iter(MOMENTS)
        while True:
            if interrupt:
                await self.cancel()
            try:
                await change()
                return
            except ThreadBusyError:
                # With `interrupt` the next in line may have been faster: it is ended too.
                pause = next(pauses, 0.0 if interrupt and self._runtime.monotonic() < until else None)
                if pause is None:
                    raise
            await settle(self, self._runtime)
            await self._runtime.sleep(pause)


class _Writer:
    """Stands in a thread's queue for a writer that is never idle."""

    def give_way(self) -> bool:
        return False

    def stop(self, turn_id: str, *, rollback: bool) -> None:
        """It ends by itself, at once."""


def _private_store(runtime: Runtime) -> ThreadStore:
    # A lazy boundary (ARCHITECTURE.md): the store of a thread that was given none.
    from holdfast.stores.memory import MemoryStore

    return MemoryStore(runtime=runtime)


def _turn_state(turn: StoredTurn) -> dict[str, Any]:
    state = {
        "id": turn.turn_id,
        "status": turn.status,
        "started_us": turn.started_us,
        "ended_us": turn.ended_us,
        "record": json.loads(turn.record),
    }
    if turn.key is not None:
        state["key"] = turn.key
    if turn.reference is not None:
        state["reference"] = turn.reference
    return state


async def thread_from_state(state: Any, store: ThreadStore | None, runtime: Runtime) -> AgentThread:
    """The thread that `AgentThread.serialize` described.

    Raises InvalidInputError if the state is no such description, or names a stored thread and there is no store;
    SchemaVersionError if a newer holdfast wrote it.
    """
    if not isinstance(state, dict) or state.get("type") != STATE_TYPE:
        raise InvalidInputError("This is no serialized thread; pass what AgentThread.serialize() returned.")
    if state.get("version") != STATE_VERSION:
        raise SchemaVersionError(
            f"The thread was serialized in form {state.get('version')!r}; this holdfast reads {STATE_VERSION}. "
            "Update holdfast."
        )
    if not state.get("stored"):
        return await _thread_from_turns(state, runtime)
    if store is None:
        raise InvalidInputError(
            f"Thread {state.get('id')!r} is kept in a store and its state holds only its id; this agent has no "
            "thread_store to find it in. Give the agent the store that the thread was kept in."
        )
    incarnation = state.get("incarnation")
    intent: Intent = "existing" if incarnation is not None or state.get("intent") == "existing" else "either"
    return AgentThread(store, state.get("id"), intent=intent, incarnation=incarnation, runtime=runtime)


async def _thread_from_turns(state: dict[str, Any], runtime: Runtime) -> AgentThread:
    thread = AgentThread(None, state.get("id"), intent="either", runtime=runtime)
    try:
        turns = [_turn_from_state(turn) for turn in state["turns"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"This serialized thread is damaged: {error!r} in one of its turns.") from None
    if turns:
        await thread._append(turns)
    return thread


def _turn_from_state(state: dict[str, Any]) -> NewTurn:
    if state["status"] not in get_args(TurnStatus):
        raise ValueError(f"no turn ends as {state['status']!r}")
    stored = NewTurn(
        turn_id=str(state["id"]),
        status=state["status"],
        record=json.dumps(state["record"], ensure_ascii=False, separators=(",", ":")).encode(),
        started_us=int(state["started_us"]),
        ended_us=int(state["ended_us"]),
        key=state.get("key"),
        reference=state.get("reference"),
    )
    decoded(StoredTurn(0, stored.turn_id, stored.status, stored.record, 0, 0, b""))  # refuses what is no record
    return stored
