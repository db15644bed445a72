"""Windows: the encoded end of a conversation, where a view leaves out what is older.

Rule of this file: what is read and encoded depends on the window alone, however long the conversation is. Kept beside
the store like a whole conversation (`history`), a slot loses old turns in front as new ones come.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.turns import Turn, checked_pairs, what_is_sent
from holdfast.engine.history import LOOK_BACK, Encoded, check_end, chunks, decoded, encode
from holdfast.engine.views import LastTurns, OwnView, TokenBudget, View
from holdfast.ports.clients import Codec
from holdfast.ports.stores import Head, Segment, StoredTurn, ThreadStore


async def seen(store: ThreadStore, codec: Codec, instructions: str | None, head: Head, view: View) -> Encoded:
    """The part of the conversation up to `head` that the view shows, to be written in by one run.

    Raises DamagedError, and what a view of the caller's own raises.
    """
    if head.branch is None:
        return Encoded(codec.head(instructions))
    if not isinstance(view, (LastTurns, TokenBudget)):
        return await _chosen(store, codec, instructions, head, view)
    slot: Encoded | None = store.cache.take((store.tenant, head.branch, codec.name, instructions, view.key))
    if slot is None or slot.seq != head.seq or slot.hash != head.hash or not head.own_tip:
        slot = await _from_the_end(store, codec, instructions, head, view, slot.ratio if slot is not None else None)
    slot.cut(view)
    return slot


async def _from_the_end(
    store: ThreadStore,
    codec: Codec,
    instructions: str | None,
    head: Head,
    view: LastTurns | TokenBudget,
    ratio: float | None,
) -> Encoded:
    """Read backwards until the window is full."""
    slot = Encoded(codec.head(instructions))
    slot.ratio = ratio or slot.ratio
    found: list[bytes] = []
    size = count = 0
    newest: StoredTurn | None = None
    for segment in reversed(await store.lineage(head)):
        upto = segment.upto
        while upto > segment.after and view.fits(count, size * slot.ratio):
            after = max(segment.after, upto - LOOK_BACK)
            turns = await store.read(Segment(segment.branch, after, upto))
            newest = newest or turns[-1]
            for stored in reversed(turns):
                turn = encode(codec, what_is_sent(decoded(stored)))
                found.append(turn)
                size, count = size + len(turn), count + bool(turn)
            upto = after
        if not view.fits(count, size * slot.ratio):
            break
    check_end(newest, head)
    slot.seq = head.seq - len(found)
    for turn in reversed(found):
        slot.append(turn)
    slot.hash = head.hash
    return slot


async def _chosen(store: ThreadStore, codec: Codec, instructions: str | None, head: Head, view: OwnView) -> Encoded:
    """What a function of the caller's own chooses of all turns."""
    turns: list[Turn] = []
    last: StoredTurn | None = None
    for segment in await store.lineage(head):
        async for some in chunks(store, segment):
            turns += [decoded(stored) for stored in some]
            last = some[-1]
    check_end(last, head)
    slot = Encoded(codec.head(instructions))
    slot.append(encode(codec, _messages(list(view(turns)))))
    slot.seq, slot.hash = head.seq, head.hash
    return slot


def _messages(chosen: Sequence[Turn | ChatMessage]) -> Sequence[ChatMessage]:
    """Turns are whole; messages of the caller's own are made so."""
    told: list[ChatMessage] = []
    for item in chosen:
        told.extend(what_is_sent(item) if isinstance(item, Turn) else (item,))
    return checked_pairs(told, repair=True)[0]
