"""History: the encoded conversation that goes over the wire, kept beside the store and only ever appended to.

Rule of this file: what was encoded once is never encoded again. A request's body is the bytes of the turns so far
with the new message and the options appended in place; joining pieces would cost more than sending them. All of
this is a cache: it can be made again from the log.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterable
from itertools import pairwise

from holdfast.conversation.errors import DamagedError, InvalidInputError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.records import ROOT, decode_turn
from holdfast.conversation.turns import Turn, what_is_sent
from holdfast.engine.handles import Handle
from holdfast.engine.views import TOKENS_PER_BYTE, Window
from holdfast.ports.clients import Codec
from holdfast.ports.stores import Head, Segment, StoredTurn, ThreadStore

# Turns decoded between two looks at what else the event loop has to do (about a millisecond).
CHUNK = 250
# Turns read at a time from the end backwards.
LOOK_BACK = 32


class Encoded:
    """The conversation up to a turn, as one codec writes it: a buffer, and where in it each turn ends."""

    __slots__ = ("_length", "buffer", "ends", "hash", "ratio", "seq")

    def __init__(self, head: bytes | bytearray, ends: array[int] | None = None) -> None:
        self.buffer = bytearray(head)
        self.ends = ends if ends is not None else array("Q", (len(head),))
        self.hash = ROOT
        self.seq = len(self.ends) - 1  # the depth of the last turn in it
        self.ratio = TOKENS_PER_BYTE
        self._length = len(self.buffer)

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        return len(self.buffer) + 8 * len(self.ends) + 500

    def append(self, turn: bytes) -> None:
        """Take in the messages of the next turn."""
        self.buffer += turn
        self._length = len(self.buffer)
        self.ends.append(self._length)
        self.seq += 1

    def prefix(self, seq: int) -> Encoded:
        """A copy that ends with the turn `seq`."""
        return Encoded(self.buffer[: self.ends[seq]], self.ends[: seq + 1])

    def cut(self, view: Window) -> None:
        """Leave out turns in front until the rest fits."""
        begins, count, drop = self.ends[0], sum(1 for a, b in pairwise(self.ends) if b > a), 0
        while drop < len(self.ends) - 1 and not view.fits(count, (self._length - self.ends[drop]) * self.ratio):
            count -= self.ends[drop + 1] > self.ends[drop]
            drop += 1
        if drop:
            gone = self.ends[drop] - begins
            del self.buffer[begins : begins + gone]
            self.ends = array("Q", [end - gone for end in self.ends[drop:]])
            self._length = len(self.buffer)

    def body(self, new: bytes, tail: bytes) -> bytearray:
        """A whole request: the conversation, what is new, the tail in the place of the last separator.

        It is this object's own buffer, lent until `restore`.
        """
        buffer = self.buffer
        buffer += new
        del buffer[-1]
        buffer += tail
        return buffer

    def restore(self) -> None:
        """Take the buffer back after a request; where the transport still holds it, go on with a copy."""
        try:
            del self.buffer[self._length :]
        except BufferError:
            self.buffer = self.buffer[: self._length]


def encode(codec: Codec, messages: Iterable[ChatMessage]) -> bytes:
    """Messages as the codec writes them, one after another."""
    return b"".join([codec.message(message) for message in messages])


async def conversation(store: ThreadStore, codec: Codec, instructions: str | None, head: Head) -> Encoded:
    """The encoded conversation up to `head`, to be written in by one run: from the cache, else from the log.

    Raises DamagedError if a turn of it is damaged.
    """
    if head.branch is None:
        return Encoded(codec.head(instructions))
    key = (store.tenant, head.branch, codec.name, instructions)
    slot: Encoded | None = store.cache.take(key)
    if slot is not None and slot.seq == head.seq:
        if slot.hash != head.hash:  # another database has taken the place of the one that was read
            store.cache.clear()
            return await _from_log(store, codec, instructions, head, None)
        if head.own_tip:
            return slot
        # The branch is another thread's: it keeps its slot, and this thread writes in a copy.
        store.cache.give(key, slot, slot.size)
        return slot.prefix(head.seq)
    return await _from_log(store, codec, instructions, head, slot)


def keep(
    store: ThreadStore, codec: Codec, instructions: str | None, head: Head, slot: Encoded, view: str | None = None
) -> None:
    """Put an encoded conversation that ends at `head`, as far as a view shows it, into the cache."""
    if head.branch is not None:
        slot.hash = head.hash
        key = (store.tenant, head.branch, codec.name, instructions)
        store.cache.give(key if view is None else (*key, view), slot, slot.size)


async def _from_log(
    store: ThreadStore, codec: Codec, instructions: str | None, head: Head, newest: Encoded | None
) -> Encoded:
    """Read what is newer than anything cached on the way from the head to the root."""
    segments = list(await store.lineage(head))
    missing: list[Segment] = []
    encoded: Encoded | None = None
    while segments and encoded is None:
        segment = segments.pop()
        if segment.branch == head.branch and newest is not None and newest.seq < head.seq and head.own_tip:
            encoded = newest  # another process has gone on with this thread; so does its slot
        else:
            encoded = _cached_prefix(store, (store.tenant, segment.branch, codec.name, instructions), newest, segment)
        after = encoded.seq if encoded is not None else segment.after
        missing.append(Segment(segment.branch, after, segment.upto))
        newest = None
    if encoded is None:
        encoded = Encoded(codec.head(instructions))
    last: StoredTurn | None = None
    for segment in reversed(missing):
        last = await _append_segment(store, codec, encoded, segment) or last
    check_end(last, head)
    encoded.hash = head.hash
    return encoded


def _cached_prefix(
    store: ThreadStore, key: tuple[object, ...], taken: Encoded | None, segment: Segment
) -> Encoded | None:
    """A copy of what the cache has of a segment, and of all before it."""
    slot = taken if taken is not None else store.cache.take(key)
    if slot is None:
        return None
    store.cache.give(key, slot, slot.size)
    return slot.prefix(min(slot.seq, segment.upto)) if slot.seq > segment.after else None


def check_end(last: StoredTurn | None, head: Head) -> None:
    """What was read ends with the very turn at which the thread stands. Raises DamagedError.

    Each turn's hash covers all before it: so the head's vouches for the whole conversation, and that it is this one.
    """
    if last is not None and last.hash != head.hash:
        raise DamagedError(
            f"Turn {last.turn_id} (number {last.seq} of its conversation) is not the one at which the thread stands. "
            "Nothing of it was used. To go on, fork the thread at the turn before it; 'holdfast verify' tells more.",
            turn_id=last.turn_id,
        )


async def _append_segment(store: ThreadStore, codec: Codec, encoded: Encoded, segment: Segment) -> StoredTurn | None:
    """Read and encode a stretch; its last turn, if there is any."""
    last: StoredTurn | None = None
    async for turns in chunks(store, segment):
        last = turns[-1]
        for turn in turns:
            try:
                encoded.append(encode(codec, what_is_sent(decoded(turn))))
            except InvalidInputError as error:
                raise InvalidInputError(
                    f"Turn {turn.turn_id} of this conversation holds something that this service cannot be told: "
                    f"{error} Go on with the service that it was said to, or fork the thread before that turn.",
                ) from None
    return last


async def messages_of(store: ThreadStore, head: Head) -> list[ChatMessage]:
    """All that a service is told of the conversation up to `head`. Raises DamagedError."""
    found: list[ChatMessage] = []
    if head.branch is not None:
        for segment in await store.lineage(head):
            async for turns in chunks(store, segment):
                for turn in turns:
                    found.extend(what_is_sent(decoded(turn)))
    return found


async def latest(store: ThreadStore, head: Head, fits: Callable[[ChatMessage], bool]) -> ChatMessage | None:
    """The latest message up to `head` that fits, read from the end, some turns at a time. Raises DamagedError."""
    if head.branch is None:
        return None
    for segment in reversed(await store.lineage(head)):
        upto = segment.upto
        while upto > segment.after:
            after = max(segment.after, upto - LOOK_BACK)
            for stored in reversed(await store.read(Segment(segment.branch, after, upto))):
                for message in reversed(decoded(stored).output):
                    if fits(message):
                        return message
            upto = after
    return None


async def last_turn(handle: Handle) -> Turn | None:
    """The turn at which a thread stands; None if it has none. Raises what `Handle.info` raises, and DamagedError."""
    info = await handle.info()
    if info is None or not info.head.seq:
        return None
    *_, segment = await handle.store.lineage(info.head)
    found = await handle.store.read(Segment(segment.branch, info.head.seq - 1, info.head.seq))
    return decoded(found[-1])


class chunks:
    """The turns of a segment, some at a time, letting the event loop breathe in between."""

    __slots__ = ("_segment", "_store")

    def __init__(self, store: ThreadStore, segment: Segment) -> None:
        self._store = store
        self._segment = segment

    def __aiter__(self) -> chunks:
        return self

    async def __anext__(self) -> list[StoredTurn]:
        if self._segment.after >= self._segment.upto:
            raise StopAsyncIteration
        turns = await self._store.read(self._segment, limit=CHUNK)
        if not turns:
            raise DamagedError(
                f"Turn {self._segment.after + 1} of branch {self._segment.branch} is missing from the store."
            )
        self._segment = Segment(self._segment.branch, turns[-1].seq, self._segment.upto)
        if len(turns) == CHUNK:
            await asyncio.sleep(0)
        return turns


def decoded(turn: StoredTurn) -> Turn:
    """The turn in a stored one. Raises DamagedError or SchemaVersionError."""
    return decode_turn(
        turn.record,
        turn_id=turn.turn_id,
        seq=turn.seq,
        status=turn.status,
        started_us=turn.started_us,
        ended_us=turn.ended_us,
    )
