"""Rules: what every store checks, and the words in which every store refuses.

Rule of this file: pure functions, no table and no SQL. A store that asks here acts like all the others; what it
refuses, it refuses before it has touched its data.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from holdfast.conversation.errors import (
    DamagedError,
    InvalidInputError,
    QueueFullError,
    StaleRunError,
    StoreUnavailableError,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadExistsError,
    ThreadNotFoundError,
    TurnNotFoundError,
)
from holdfast.conversation.ids import checked_turn_id
from holdfast.conversation.plain import plain
from holdfast.conversation.records import chain
from holdfast.ports.stores import Head, NewTurn, OpenRun, Segment, StoredTurn, Terms

MAX_TITLE = 1_000
MAX_METADATA = 64 * 1024
MAX_PAGE = 1_000

# Where a page of a listing begins: after this time of last use (the latest come first), then after this id.
Position: TypeAlias = tuple[int, str]


# --- what a caller may pass ------------------------------------------------------------------------------------


def checked_title(title: object) -> str | None:
    """The title as it came. Raises InvalidInputError if it is no string, too long, or no proper Unicode."""
    if title is None:
        return None
    if not isinstance(title, str):
        raise InvalidInputError(f"A title is a string or None; got {type(title).__name__}.")
    if len(title) > MAX_TITLE:
        raise InvalidInputError(f"A title has at most {MAX_TITLE:,} characters; got {len(title):,}. Shorten it.")
    _check_unicode(title, "title")
    return title


def encoded_metadata(metadata: object) -> bytes | None:
    """Metadata as the bytes to store. Raises InvalidInputError if it is no JSON object, or a large one."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"Metadata is a dict or None; got {type(metadata).__name__}.")
    try:
        encoded = json.dumps(
            plain(metadata, "Metadata"), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except ValueError as error:  # NaN, infinity, half of a surrogate pair; ours comes through as it is
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"Metadata cannot be stored as JSON: {error}.") from None
    if len(encoded) > MAX_METADATA:
        raise InvalidInputError(
            f"Metadata takes at most {MAX_METADATA:,} bytes as JSON; got {len(encoded):,}. "
            "Keep large things elsewhere, and their address here."
        )
    return encoded


def decoded_metadata(encoded: bytes | None) -> Mapping[str, Any] | None:
    """Stored metadata as a dict of its own."""
    found: Mapping[str, Any] | None = None if encoded is None else json.loads(encoded)
    return found


def check_terms(terms: Terms) -> None:
    """Raises InvalidInputError for a key that cannot be stored, or a point at a turn id that cannot be."""
    if terms.key is not None:
        if not isinstance(terms.key, str):
            raise InvalidInputError(f"An idempotency key is a string; got {type(terms.key).__name__}.")
        _check_unicode(terms.key, "idempotency key")
    if terms.point is not None:
        checked_turn_id(terms.point.turn_id)


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"The {what} holds half of a surrogate pair at position {error.start}, which is no character. "
            "Decode it properly, or leave it out."
        ) from None


def checked_count(count: object, what: str, *, most: int | None = None, least: int = 0) -> int:
    """A whole number in its bounds. Raises InvalidInputError."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least or (most is not None and count > most):
        bounds = f"from {least:,} to {most:,}" if most is not None else f"of at least {least:,}"
        raise InvalidInputError(f"{what} is a whole number {bounds}; got {count!r}.")
    return count


def checked_move(back: object, to: str | None) -> int:
    """How far back a head is to be moved. Raises InvalidInputError for a negative number, or if `to` is given too."""
    steps = checked_count(back, "back")
    if steps and to is not None:
        raise InvalidInputError("Say where the head is to go either with back= or with to=, not with both.")
    return steps


def cursor_after(position: Position) -> str:
    """The cursor for the page that begins after this position."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def position_of(cursor: object) -> Position:
    """The position that a cursor stands for. Raises InvalidInputError if `cursor_after` did not make it."""
    try:
        if isinstance(cursor, str):
            found = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
            return msgspec.json.decode(found, type=tuple[int, str])
    except (ValueError, binascii.Error, msgspec.DecodeError):
        pass
    raise InvalidInputError(
        "The cursor is not one that a page of this listing gave. Pass an earlier page's `next` as it came, "
        "or None for the first page."
    )


# --- turns -----------------------------------------------------------------------------------------------------


def placed(turn: NewTurn, seq: int, parent: bytes) -> StoredTurn:
    """The turn in its place: with its depth and the hash that chains it to its parent.

    Raises InvalidInputError for an id, key or reference that cannot be stored.
    """
    checked_turn_id(turn.turn_id)
    for what, value in (("key", turn.key), ("reference", turn.reference)):
        if value is not None:
            _check_unicode(value, what)
    stored = StoredTurn(
        seq,
        turn.turn_id,
        turn.status,
        bytes(turn.record),
        turn.started_us,
        turn.ended_us,
        b"",
        turn.key,
        turn.reference,
    )
    return msgspec.structs.replace(stored, hash=hash_of(stored, parent))


def checked_stand(run: OpenRun, stand: Head | None) -> Head | None:
    """Where a thread is to stand after a run. Raises InvalidInputError for a place that the run has not left."""
    if stand is None or stand in (run.head, run.left):
        return stand
    raise InvalidInputError(
        f"After turn {run.turn_id}, thread {run.thread_id!r} stands at it, where the run began, or where the thread "
        f"stood before that; got {stand}.",
        thread_id=run.thread_id,
        turn_id=run.turn_id,
    )


def beside(stand: Head, end: Head) -> Head:
    """The head of a thread that stands elsewhere than at the turns which were stored, the last of them at `end`."""
    return msgspec.structs.replace(stand, own_tip=stand.own_tip and stand.branch != end.branch)


def hash_of(turn: StoredTurn, parent: bytes) -> bytes:
    """The hash that the turn must have after this parent."""
    return chain(
        parent,
        seq=turn.seq,
        turn_id=turn.turn_id,
        key=turn.key,
        status=turn.status,
        reference=turn.reference,
        started_us=turn.started_us,
        ended_us=turn.ended_us,
        record=turn.record,
    )


def verify(turns: Sequence[StoredTurn], parent: bytes, *, before: str | None) -> None:
    """Check the hashes of consecutive turns. `before` is the id of the turn before them, if there is one.

    Raises DamagedError at the first turn that is not what was written; it names the fork that goes on.
    """
    for turn in turns:
        if not _fits(turn, parent):
            way = f"fork the thread at turn {before}, the last sound one" if before else "begin a new thread"
            raise DamagedError(
                f"Turn {turn.turn_id} (number {turn.seq} of its conversation) is not what was written: its hash does "
                f"not match. Nothing of it was used. To go on, {way}.",
                turn_id=turn.turn_id,
            )
        parent, before = turn.hash, turn.turn_id


def _fits(turn: StoredTurn, parent: bytes) -> bool:
    try:
        return hash_of(turn, parent) == turn.hash
    except TypeError:  # a column holds another kind of value than was written
        return False


# --- refusals, in the same words everywhere --------------------------------------------------------------------


def no_thread(thread_id: str) -> ThreadNotFoundError:
    return ThreadNotFoundError(
        f"There is no thread {thread_id!r} in this store. Check the id, the store and the tenant.",
        thread_id=thread_id,
    )


def thread_exists(thread_id: str) -> ThreadExistsError:
    return ThreadExistsError(
        f"There is a thread {thread_id!r} already. Take another id, or open the one that exists.",
        thread_id=thread_id,
    )


def thread_deleted(thread_id: str) -> ThreadDeletedError:
    return ThreadDeletedError(
        f"Thread {thread_id!r} was deleted since this handle saw it. Ask for a new thread if you want to begin "
        "again under the same id.",
        thread_id=thread_id,
    )


def thread_busy(run: OpenRun, what: str) -> ThreadBusyError:
    if run.waiting:
        why = f"turn {run.turn_id} waits on it for an answer. Give that answer first, or end the run otherwise."
    else:
        why = f"turn {run.turn_id} is being made on it. Wait until that run has ended, or cancel it first."
    return ThreadBusyError(
        f"Thread {run.thread_id!r} cannot be {what}: {why}",
        thread_id=run.thread_id,
        turn_id=run.turn_id,
    )


def no_turn(thread_id: str, turn_id: str) -> TurnNotFoundError:
    return TurnNotFoundError(
        f"Thread {thread_id!r} has no turn {turn_id!r} on its own history. Turns that were rewound, or that belong "
        "to another branch, are no targets; look at the thread's turns for one that is.",
        thread_id=thread_id,
        turn_id=turn_id,
    )


def no_turn_anywhere(thread_id: str, turn_id: str) -> TurnNotFoundError:
    return TurnNotFoundError(
        f"Thread {thread_id!r} has no turn {turn_id!r} on any of its branches. Look at its branches, and at the turns "
        "before their tips, for one that it has.",
        thread_id=thread_id,
        turn_id=turn_id,
    )


def not_latest(thread_id: str, turn_id: str) -> TurnNotFoundError:
    return TurnNotFoundError(
        f"Turn {turn_id!r} is not the latest one of thread {thread_id!r} any more: another turn came first. Look at "
        "the thread's turns, and say again which one you mean.",
        thread_id=thread_id,
        turn_id=turn_id,
    )


def line_full(thread_id: str, waiting: int) -> QueueFullError:
    runs = "one run waits" if waiting == 1 else f"{waiting:,} runs wait" if waiting else "no run may wait"
    return QueueFullError(
        f"Thread {thread_id!r} is taken, and {runs} for it; no more may. Nothing was recorded. Try again later, or "
        "raise the limit of waiting runs.",
        thread_id=thread_id,
    )


def too_few_turns(thread_id: str, back: int, turns: int) -> InvalidInputError:
    return InvalidInputError(
        f"Thread {thread_id!r} cannot go back {back}: its history is {turns} long. Go back at most {turns}.",
        thread_id=thread_id,
    )


def turns_gone(segment: Segment) -> TurnNotFoundError:
    return TurnNotFoundError(
        f"Turns {segment.after + 1} to {segment.upto} of branch {segment.branch} are not in this store: the thread "
        "that they belonged to was deleted, or this is another store. Look the thread up again."
    )


def stale_run(run: OpenRun) -> StaleRunError:
    return StaleRunError(
        f"Turn {run.turn_id} was not recorded: another writer has taken thread {run.thread_id!r} over, or the run "
        "was closed already, or waits for an answer. Look at the thread, and at its turns; run again if the turn is "
        "not among them.",
        thread_id=run.thread_id,
        turn_id=run.turn_id,
    )


def turn_id_taken(thread_id: str, turn_id: str) -> InvalidInputError:
    return InvalidInputError(
        f"There is a turn {turn_id!r} already; turn ids are unique in a store. Nothing was recorded on thread "
        f"{thread_id!r}. Use a new id.",
        thread_id=thread_id,
        turn_id=turn_id,
    )


def store_closed(location: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"The store ({location}) was closed. Open a new one.")


def store_moved(location: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{location} is not the file any more that this store has open: it was deleted, moved or replaced meanwhile. "
        "Nothing is written to it any more. Put it back, or close this store and open a new one."
    )
