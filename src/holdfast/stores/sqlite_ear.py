"""Ear: what other processes tell this one, and what this one passes on: that a thread is free, that a run is to stop.

Rule of this file: whatever is heard only makes this process look into the database; a run is stopped because of what
stands there. A run is told while no lock of the store is held, for it seals itself.
"""

from __future__ import annotations

import logging
from typing import Any

from holdfast.ports.stores import SlotCache
from holdfast.stores import sqlite_bell
from holdfast.stores.calls import tell_to_stop
from holdfast.stores.sqlite_bell import Bell, Call
from holdfast.stores.sqlite_db import Database
from holdfast.stores.sqlite_journal import wish_for
from holdfast.stores.sqlite_line import Line, Place

log = logging.getLogger("holdfast.stores")


class Ear:
    """One owner's ear."""

    def __init__(self, database: Database, cache: SlotCache, line: Line) -> None:
        self._database = database
        self._cache = cache
        self._line = line
        self._owner = 0
        self._bell: Bell | None = None

    @property
    def address(self) -> str | None:
        """Where it can be reached."""
        return None if self._bell is None else self._bell.address

    def listen(self, owner: int) -> None:
        """From now on others can call this process, as that owner."""
        self.close()
        self._owner = owner
        try:
            self._bell = Bell(owner, self.heard)
        except OSError as error:
            log.info("no socket to be called at (%s); whoever waits looks for itself", error)

    def close(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    def heard(self, said: Call) -> None:
        """Follow a call."""
        kind, *run = said
        if kind == "stop":
            self.obey((run[0], run[1]))
        else:
            self._line.calls.call(tuple(run))

    def pass_on_wish(self, owner: int | None, address: str | None, place: Place) -> None:
        """Somebody wishes that a run be stopped: tell whoever makes it, here or in another process."""
        if owner == self._owner:
            self.obey(place[:2])
        elif address is not None:
            sqlite_bell.call(address, "stop", *place)

    def obey(self, key: Any) -> None:
        """Tell the run of this process that has a thread, given as (tenant, thread id), if it is to stop."""
        tenant, thread_id = key
        if key not in self._cache.holders:
            return
        try:
            wish = self._database.read(lambda connection: wish_for(connection, tenant, thread_id, self._owner))
        except Exception as error:
            log.warning("whether a run is to stop cannot be read (%s); the next beat tries again", type(error).__name__)
            return
        if wish is not None:
            tell_to_stop(self._cache, key, wish[0], rollback=wish[1])
