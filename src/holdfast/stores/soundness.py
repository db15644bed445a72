"""Soundness: whether a turn is what was written, and the words for what is not. The same for every store.

Rule of this file: pure functions. A turn is sound if its hash fits the turn before it and its record can be read.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from holdfast.conversation.errors import DamagedError, SchemaVersionError
from holdfast.conversation.records import ROOT, decode_turn
from holdfast.ports.stores import StoredTurn
from holdfast.ports.verification import Damage, DamageKind, Verification
from holdfast.stores import rules

MOST_DAMAGE, NAMED_THREADS = 1000, 5

BACKUP = "Restore a backup to have it again."
NOTHING_TO_DO = "Nothing needs to be done."
NEWER = "a newer holdfast wrote its record"


class Where(Struct, frozen=True):
    """On whose history a turn lies: the first few threads, how many more, and the one that made its branch."""

    tenant: str | None
    threads: tuple[str, ...] = ()
    others: int = 0
    owner: str | None = None


class Before(Struct, frozen=True):
    """What stands before a turn: hash, depth, and the id of the last turn that all is sound up to.

    `hash` is None if that turn is not there. `made` is the hash that it should have had, if its own does not fit: a
    follower that was chained to that is sound. `sound` is False if anything on the way here is damaged.
    """

    hash: bytes | None = ROOT
    seq: int = 0
    last_sound: str | None = None
    sound: bool = True
    made: bytes | None = None


def step(before: Before, turn: StoredTurn) -> tuple[str, Before]:
    """What is wrong with a turn ("" if nothing), and what it is to the one after it."""
    made = _made(turn, before.hash)
    # Nobody can say whether a turn fits one that is not there.
    fits = before.hash is None or turn.hash in (made, _made(turn, before.made))
    flaw = _unreadable(turn) if fits else "its hash does not match"
    sound = before.sound and not flaw
    last = turn.turn_id if sound else before.last_sound
    return flaw, Before(turn.hash, turn.seq, last, sound, None if fits else made)


def gone(before: Before) -> Before:
    """What a turn that is not there is to the one after it."""
    return replace(before, hash=None, seq=before.seq + 1, sound=False, made=None)


def _made(turn: StoredTurn, parent: bytes | None) -> bytes:
    """The hash that it must have after this parent; no hash at all if none can be made."""
    try:
        return b"" if parent is None else rules.hash_of(turn, parent)
    except (TypeError, ValueError, msgspec.MsgspecError):
        return b""


def _unreadable(turn: StoredTurn) -> str:
    try:
        decode_turn(turn.record, turn_id=turn.turn_id, seq=turn.seq, status=turn.status, started_us=0, ended_us=0)
    except SchemaVersionError:
        return NEWER
    except (DamagedError, TypeError):
        return "its record cannot be read"
    return ""


def damaged_turn(flaw: str, turn_id: str | None, seq: int, before: Before, where: Where) -> Damage:
    """A turn that is damaged, and what goes on."""
    what = f"Turn {turn_id} (number {seq})" if turn_id is not None else f"Turn number {seq}"
    what = f"{what} is damaged: {flaw}."
    threads, way, fork_at = where.threads, "Begin a new thread, or restore a backup.", before.last_sound
    if flaw == NEWER:
        way = "Update holdfast."
    elif fork_at is not None:
        way = f"Go on with thread.fork(at={fork_at!r}), the last sound turn, or restore a backup."
    if not threads:
        what = f"{what[:-1]}, on a branch that no thread stands on now."
        way = "Nothing needs to be done, unless somebody is to go back to that branch."
        threads, fork_at = (where.owner,) if where.owner is not None else (), None
    return Damage("turn", what, way, where.tenant, threads, where.others, turn_id, seq, fork_at)


class Findings:
    """What was found so far; the first thousand pieces of damage are kept, the others counted."""

    def __init__(self) -> None:
        self.threads = self.turns = self.record_bytes = self.damaged = 0
        self.notes: list[str] = []
        self._kept: list[Damage] = []

    def add(self, damage: Damage) -> None:
        self.damaged += 1
        if len(self._kept) < MOST_DAMAGE:
            self._kept.append(damage)

    def say(self, kind: DamageKind, what: str, way: str, tenant: str | None = None, thread: str | None = None) -> None:
        """Add damage that is in no turn."""
        self.add(Damage(kind, what, way, tenant, () if thread is None else (thread,)))

    def all(self) -> Verification:
        unlisted = self.damaged - len(self._kept)
        told = (self.threads, self.turns, self.record_bytes, tuple(self._kept), unlisted, tuple(self.notes))
        return Verification(*told)
