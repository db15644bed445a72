"""Verification: what `ThreadStore.verify` tells of a store, and of what is damaged in it.

Rule of this file: plain data. Damage is a value here and no exception: whoever asks wants to know all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from msgspec import Struct

# What a piece of damage is in: a turn, a branch (where it begins), a thread's row, its title and metadata, a place in
# line, what an open run wrote down, the file as such.
DamageKind: TypeAlias = Literal["turn", "branch", "thread", "labels", "ticket", "journal", "file"]


class Damage(Struct, frozen=True):
    """Something that is not what was written: what and where it is, and what goes on.

    `what` and `way` are sentences for people. `threads` names the first few of the threads that reach it, `others`
    counts the rest. `fork_at` is the id of the last sound turn before a damaged one: `thread.fork(at=...)` goes on.
    """

    kind: DamageKind
    what: str
    way: str
    tenant: str | None = None
    threads: tuple[str, ...] = ()
    others: int = 0
    turn_id: str | None = None
    seq: int | None = None
    fork_at: str | None = None


class Verification(Struct, frozen=True):
    """What was looked at, and all that is damaged in it.

    `unlisted` counts the damage beyond the first thousand pieces. `notes` are worth knowing and no damage.
    """

    threads: int = 0
    turns: int = 0
    record_bytes: int = 0
    damage: tuple[Damage, ...] = ()
    unlisted: int = 0
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether everything is what was written, as far as can be known."""
        return not self.damage


class Verifying(Struct, frozen=True):
    """How far a verification has come: turns out of about so many; at the `file` itself there is nothing to count."""

    stage: Literal["turns", "threads", "file"]
    turns: int
    of_turns: int
    damage: int


class Copying(Struct, frozen=True):
    """How far a backup has come, in pages of the database; then it is verified."""

    pages: int
    of_pages: int


class Backup(Struct, frozen=True):
    """A copy of a store that was made, checked and put in its place."""

    path: str
    bytes: int
    threads: int
    turns: int


# Called on the event loop, a few times a second.
OnVerifying: TypeAlias = Callable[[Verifying], object]
OnBackup: TypeAlias = Callable[[Copying | Verifying], object]
