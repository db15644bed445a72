"""Following: to read what a turn says while somebody else makes it, or after it has ended.

Rule of this file: there are three places to read from, and a cursor fits them all: the run itself, if this process
makes it; its journal, at most half a second behind; and the finished turn. Whoever dies in between, it ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence

from holdfast.conversation.approvals import ApprovalUpdate
from holdfast.conversation.cursors import (
    Cursor,
    EndUpdate,
    RestartUpdate,
    end_of,
    moved,
    parsed,
    rest,
    restart_for,
    spoken,
    updates_of,
)
from holdfast.conversation.errors import IdempotencyKeyError, TurnNotFoundError
from holdfast.conversation.journal import Entry, Recorded, entries, recorded
from holdfast.conversation.records import input_of
from holdfast.conversation.turns import Turn
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.approving import requests_in, take_answered
from holdfast.engine.handles import Handle
from holdfast.engine.history import decoded
from holdfast.engine.recovery import close_left_over, left_over, take_left_over
from holdfast.engine.runs import TurnRun
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Earlier, OpenRun, Progress, StoredTurn, Twin

# Seconds between two looks at a run of this process, and at what another one has written down.
LOOK_HERE, LOOK_ELSEWHERE = 0.02, 0.25
# Seconds that a run of a dead process may wait for somebody to go on with it, before a follower closes it.
GRACE_SECONDS = 5.0


class Follower:
    """One reader's place in a turn, and what there is to read after it."""

    def __init__(self, handle: Handle, turn_id: str, cursor: Cursor) -> None:
        self.turn_id = turn_id
        self.cursor = cursor
        # Set when the turn has ended, or (the open run) when its process is gone.
        self.turn: Turn | None = None
        self.key: str | None = None
        self.left: OpenRun | None = None
        # What has been recorded of a run that waits for somebody's word.
        self.waiting: Recorded | None = None
        self.pause = LOOK_HERE
        self._handle = handle
        self._answer: object = None
        self._read = self._at = self._records = 0

    async def look(self) -> list[AgentRunResponseUpdate]:
        """What has been said since the last look; the last of it is an EndUpdate. Raises TurnNotFoundError."""
        store = self._handle.store
        run = store.cache.holders.get((store.tenant, self._handle.id))
        if isinstance(run, TurnRun) and run.turn_id == self.turn_id and run.is_open:
            self.left, self.pause = None, LOOK_HERE
            return self._heard(run)
        progress = await store.progress(self._handle.id, self.turn_id, after=self._records)
        if progress is None:
            raise TurnNotFoundError(
                f"Thread {self._handle.id!r} knows no turn {self.turn_id!r}: it was never opened, or the thread was "
                "deleted. Nothing is said there.",
                thread_id=self._handle.id,
                turn_id=self.turn_id,
            )
        self.pause = LOOK_ELSEWHERE
        if progress.turn is not None:
            return self._finished(progress.turn)
        waits = progress.run is not None and progress.run.waiting
        self.left = progress.run if not progress.alive and not waits else None
        told = self._journalled(progress)
        self.waiting = await self._whole_journal() if waits else None
        return told

    async def _whole_journal(self) -> Recorded:
        progress = await self._handle.store.progress(self._handle.id, self.turn_id)
        return recorded(progress.records if progress is not None else ())

    def _heard(self, run: TurnRun) -> list[AgentRunResponseUpdate]:
        """From the run itself."""
        told = self._restarted(run.restarts)
        answer = run.heard
        while answer is not self._answer:
            # Another answer than at the last look. What is whole is read first; should the answer become whole
            # meanwhile, in another thread, it is looked at once more.
            self._answer, self._read = answer, 0
            found, self._at = rest(list(run.told), 0, self.cursor.n)
            told += found
            self.cursor = Cursor(run.epoch, max(self._at, self.cursor.n))
            answer = run.heard
        new = run.said()[self._read :] if run.heard is answer else []
        self._read += len(new)
        found, self._at = rest(spoken(new), self._at, self.cursor.n)
        self.cursor = Cursor(run.epoch, max(self._at, self.cursor.n))
        return told + found

    def _journalled(self, progress: Progress) -> list[AgentRunResponseUpdate]:
        """From what the run has written down."""
        told: list[AgentRunResponseUpdate] = []
        new = entries(progress.records)
        self._records += len(progress.records)
        for entry in _that_count(new):
            if entry.again:
                told += self._restarted([(entry.e, entry.at)])
                continue
            found, end = rest(entry.updates if entry.is_whole else spoken(entry.updates), entry.at, self.cursor.n)
            told += found
            told += [ApprovalUpdate(request=request) for request in entry.waits]
            self.cursor = Cursor(max(entry.e, self.cursor.epoch), max(end, self.cursor.n))
        return told

    def _finished(self, stored: StoredTurn) -> list[AgentRunResponseUpdate]:
        """From the turn, which has ended."""
        self.turn, self.key = decoded(stored), stored.key
        told = self._restarted(self.turn.restarts)
        found, end = rest(updates_of(self.turn.output), 0, self.cursor.n)
        if self.cursor.n > end:
            told.append(RestartUpdate(n=end, epoch=self.cursor.epoch))
        self.cursor = Cursor(self.cursor.epoch, end)
        return [*told, *found, end_of(self.turn)]

    def _restarted(self, restarts: Sequence[tuple[int, int]]) -> list[AgentRunResponseUpdate]:
        """Go back to where the text restarts, if that was after it was read here."""
        restart = restart_for(restarts, self.cursor)
        epoch = max((epoch for epoch, _ in restarts), default=0)
        self.cursor = Cursor(max(epoch, self.cursor.epoch), self.cursor.n if restart is None else restart.n)
        return [] if restart is None else [restart]


def _that_count(new: Sequence[Entry]) -> Iterator[Entry]:
    """The entries, but for what a later one makes void."""
    void: int | None = None
    kept: list[Entry] = []
    for entry in reversed(new):
        if void is None or entry.at < void or entry.again:
            kept.append(entry)
        if entry.again:
            void = entry.at if void is None else min(void, entry.at)
    return reversed(kept)


class TurnFollower:
    """The updates of a turn that is, or was, made elsewhere: by another task, another process, some time ago.

        async for update in thread.follow(turn_id, after=cursor):
            print(update.text, end="")

    Gives exactly what was said after the cursor. A `RestartUpdate` says that what came after its place is void; the
    last update is an `EndUpdate`. `.cursor` is the place after the update that was handed on last.
    """

    def __init__(self, handle: Handle, turn_id: str, *, after: str | None, grace: float, runtime: Runtime) -> None:
        self._follower = Follower(handle, turn_id, Cursor() if after is None else parsed(after))
        self._place = self._follower.cursor
        self._handle = handle
        self._grace = grace
        self._runtime = runtime
        self._gone_since: float | None = None
        self._ready: deque[AgentRunResponseUpdate] = deque()
        self._ended = False

    @property
    def cursor(self) -> str:
        """Where to go on from: pass it as `after=`, today or in a year."""
        return str(self._place)

    def __aiter__(self) -> TurnFollower:
        return self

    async def __anext__(self) -> AgentRunResponseUpdate:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            await self._more()
        update = self._ready.popleft()
        self._place = moved(self._place, (update,))
        return update

    async def _more(self) -> None:
        new = await self._follower.look()
        self._ready.extend(new)
        if not self._place.epoch:
            self._place = Cursor(self._follower.cursor.epoch, self._place.n)
        self._ended = self._follower.turn is not None
        if self._follower.left is not None:
            await self._close_in_time(self._follower.left)
        else:
            self._gone_since = None
        if not new:
            await self._runtime.sleep(self._follower.pause)

    async def _close_in_time(self, left: OpenRun) -> None:
        """Its process is gone: after a while without anybody who goes on with it, it is closed as interrupted."""
        now = self._runtime.monotonic()
        if self._gone_since is None:
            self._gone_since = now
        if now - self._gone_since >= self._grace:
            await close_left_over(self._handle, left, self._runtime)


async def catch_up(run: TurnRun) -> AsyncGenerator[Iterator[AgentRunResponseUpdate], None]:
    """What a run tells first that does not begin a turn of its own.

    A resumed one: what the dead process had written down; then the run is open, if there was anything to resume. (One
    that was given answers to requests goes on with what comes after them.) One whose idempotency key is taken: all
    that the turn under that key says; should its process die meanwhile, this run goes on with it; should it end and
    free its key, this run is to be opened once more.
    Raises IdempotencyKeyError, RunTimeoutError.
    """
    spec, found = run.spec, run.found
    if found is None:
        taken = await _taken(run)
        if taken is None:
            run.has_nothing_to_do()
            return
        run.goes_on(taken)
        if not spec.answers:  # whoever answers has read what was said before
            yield run.hands_on(list(run.told), Cursor(run.epoch, 0))
            run.caught_up()
        return
    _check_input(run, found)
    if isinstance(found, Earlier):
        turn = decoded(found.turn)
        yield run.hands_on(updates_of(turn.output), Cursor(_epoch_of(turn), 0))
        run.repeats(turn)
        return
    follower = Follower(spec.thread, found.turn_id, Cursor())
    while True:
        place = follower.cursor
        async with asyncio.timeout_at(run.deadline):
            try:
                new = await follower.look()
            except TurnNotFoundError:
                return  # it has left the line without a turn: this one may try
        if told := [update for update in new if not isinstance(update, EndUpdate)]:
            yield run.hands_on(told, Cursor(place.epoch or follower.cursor.epoch, place.n))
        if follower.turn is not None:
            if follower.key is not None:
                run.repeats(follower.turn)
            return
        if follower.waiting is not None:
            before = follower.waiting
            run.waits_already(found.turn_id, requests_in(before), before.messages)
            return
        if follower.left is not None:
            taken = await take_left_over(spec.thread, follower.left, spec.runtime)
            if taken is not None:
                run.goes_on(taken)
                yield run.hands_on(_after_takeover(run, follower.cursor), follower.cursor)
                run.caught_up()
                return
        if not new:
            async with asyncio.timeout_at(run.deadline):
                await spec.runtime.sleep(follower.pause)


async def _taken(run: TurnRun) -> OpenRun | None:
    """The run that this one is to go on with: a dead process's, or the one that waits for the answers it was given."""
    spec = run.spec
    if spec.answers:
        # What sources and providers offer is not known yet.
        tools = None if run.kit.sources or spec.providers else run.kit.by_name
        return await take_answered(spec.thread, spec.answers, spec.runtime, tools)
    left = await left_over(spec.thread, waiting=False)
    return await take_left_over(spec.thread, left[0], spec.runtime) if left is not None else None


def _epoch_of(turn: Turn) -> int:
    return max((epoch for epoch, _ in turn.restarts), default=0)


def _after_takeover(run: TurnRun, cursor: Cursor) -> list[AgentRunResponseUpdate]:
    """What a reader who stands at a cursor is told of what a run goes on from."""
    restart = restart_for(run.restarts, cursor)
    found, _ = rest(run.told, 0, cursor.n if restart is None else restart.n)
    return found if restart is None else [restart, *found]


def _check_input(run: TurnRun, found: Earlier | Twin) -> None:
    """Refuse a key that stands for something else that was said."""
    if isinstance(found, Earlier):
        said, turn_id = input_of(found.turn.record), found.turn.turn_id
    else:
        said, turn_id = found.input, found.turn_id
    if said != run.stored_input:
        raise IdempotencyKeyError(
            f"Idempotency key {run.spec.key!r} was used on thread {run.spec.thread.id!r} with another input, for turn "
            f"{turn_id}. Nothing was sent. Say the same as then, or take another key.",
            thread_id=run.spec.thread.id,
            turn_id=turn_id,
        )
