"""Following: to read what a turn says while somebody else makes it, or after it has ended.

Rule of this file: there are three places to read from, and a cursor fits them all: the run itself, if this process
makes it; its journal, at most half a second behind; and the finished turn. Whoever dies in between, it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence

from holdfast.conversation.cursors import (
    Cursor,
    EndUpdate,
    RestartUpdate,
    end_of,
    parsed,
    rest,
    restart_for,
    units,
    updates_of,
)
from holdfast.conversation.errors import IdempotencyKeyError, TurnNotFoundError
from holdfast.conversation.journal import Entry, entries
from holdfast.conversation.records import input_of
from holdfast.conversation.turns import Turn
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.handles import Handle
from holdfast.engine.history import decoded
from holdfast.engine.recovery import close_left_over, left_over, take_left_over
from holdfast.engine.runs import TurnRun
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Earlier, OpenRun, Progress, StoredTurn

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
        self.left: OpenRun | None = None
        self.pause = LOOK_HERE
        self._handle = handle
        self._run: TurnRun | None = None
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
        self.left = progress.run if not progress.alive else None
        return self._journalled(progress)

    def _heard(self, run: TurnRun) -> list[AgentRunResponseUpdate]:
        """From the run itself."""
        if run is not self._run:
            self._run, self._read, self._at = run, 0, 0
        told = self._restarted(run.restarts)
        new = run.heard[self._read :]
        self._read += len(new)
        found, self._at = rest(new, self._at, self.cursor.n)
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
            found, end = rest(entry.updates, entry.at, self.cursor.n)
            told += found
            self.cursor = Cursor(max(entry.e, self.cursor.epoch), max(end, self.cursor.n))
        return told

    def _finished(self, stored: StoredTurn) -> list[AgentRunResponseUpdate]:
        """From the turn, which has ended."""
        self.turn = decoded(stored)
        told = self._restarted(self.turn.restarts)
        found, end = rest(updates_of(self.turn.output), 0, self.cursor.n)
        if self.cursor.n > end:
            told.append(RestartUpdate(n=end))
        self.cursor = Cursor(self.cursor.epoch, end)
        return [*told, *found, end_of(self.turn)]

    def _restarted(self, restarts: Sequence[tuple[int, int]]) -> list[AgentRunResponseUpdate]:
        """Go back to where the text restarts, if it does so before this place."""
        place = restart_for(restarts, self.cursor)
        epoch = max((epoch for epoch, _ in restarts), default=0)
        self.cursor = Cursor(max(epoch, self.cursor.epoch), self.cursor.n if place is None else place)
        return [] if place is None else [RestartUpdate(n=place)]


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
        if isinstance(update, RestartUpdate):
            self._place = Cursor(self._follower.cursor.epoch, update.n)
        else:
            self._place = Cursor(self._place.epoch, self._place.n + units(update))
        return update

    async def _more(self) -> None:
        new = await self._follower.look()
        self._ready.extend(new)
        if not any(isinstance(update, RestartUpdate) for update in new):
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

    A resumed one: what the dead process had written down; then the run is open, if there was anything to resume. One
    whose idempotency key is taken: all that the turn under that key says; should its process die meanwhile, this
    run goes on with it. Raises IdempotencyKeyError, ThreadBusyError.
    """
    spec = run.spec
    if run.found is None:
        left = await left_over(spec.thread)
        taken = await take_left_over(spec.thread, left, spec.runtime) if left is not None else None
        if taken is not None:
            run.goes_on(taken)
            yield iter(list(run.heard))
        return
    _check_input(run)
    if isinstance(run.found, Earlier):
        turn = decoded(run.found.turn)
        run.heard.extend(updates_of(turn.output))
        yield iter(list(run.heard))
        run.repeats(turn)
        return
    follower = Follower(spec.thread, run.found.turn_id, Cursor())
    while True:
        new = await follower.look()
        if told := [update for update in new if not isinstance(update, EndUpdate)]:
            run.heard.extend(told)
            yield iter(told)
        if follower.turn is not None:
            run.repeats(follower.turn)
            return
        if follower.left is not None:
            taken = await take_left_over(spec.thread, follower.left, spec.runtime)
            if taken is not None:
                run.goes_on(taken)
                yield iter(_after_takeover(run, follower.cursor))
                return
        if not new:
            await spec.runtime.sleep(follower.pause)


def _after_takeover(run: TurnRun, cursor: Cursor) -> list[AgentRunResponseUpdate]:
    """What a reader who stands at a cursor is told of what a run goes on from."""
    place = restart_for(run.restarts, cursor)
    found, _ = rest(run.heard, 0, cursor.n if place is None else place)
    return found if place is None else [RestartUpdate(n=place), *found]


def _check_input(run: TurnRun) -> None:
    """Refuse a key that stands for something else that was said."""
    found = run.found
    assert found is not None
    said, turn_id = (
        (input_of(found.turn.record), found.turn.turn_id)
        if isinstance(found, Earlier)
        else (found.input, found.turn_id)
    )
    if said != run.stored_input:
        raise IdempotencyKeyError(
            f"Idempotency key {run.spec.key!r} was used on thread {run.spec.thread.id!r} with another input, for turn "
            f"{turn_id}. Nothing was sent. Say the same as then, or take another key.",
            thread_id=run.spec.thread.id,
            turn_id=turn_id,
        )
