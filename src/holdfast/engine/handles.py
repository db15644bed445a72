"""Handles: what a handle on a thread knows, before and after it has seen the thread."""

from __future__ import annotations

import contextlib
from operator import attrgetter

from holdfast.conversation.errors import HoldfastError, ThreadDeletedError, ThreadExistsError, ThreadNotFoundError
from holdfast.ports.stores import Busy, Earlier, Handed, Intent, OpenRun, ThreadInfo, ThreadStore


class Handle:
    """A store, an id, and how the id was meant. Making one touches nothing.

    `incarnation` is the life of the thread that this handle has seen; None until it has seen one. From then on the
    handle stands for that life alone, so that nobody brings a deleted thread back by accident.
    """

    __slots__ = ("_id", "_store", "first_open", "incarnation", "intent")

    def __init__(self, store: ThreadStore, thread_id: str, intent: Intent, incarnation: int | None = None) -> None:
        self._store = store
        self._id = thread_id
        self.intent: Intent = intent
        self.incarnation = incarnation
        # The first opening by this handle: until it is known what came of it, nobody knows whose thread it is.
        self.first_open: Handed[OpenRun | Busy | Earlier] | None = None

    # Read on the path of every turn: attrgetter is C.
    id: str = property(attrgetter("_id"), doc="The thread's id, unique in its store and tenant.")  # type: ignore[assignment]
    store: ThreadStore = property(attrgetter("_store"), doc="Where the thread is kept.")  # type: ignore[assignment]

    def seen(self, opened: OpenRun | Busy | Earlier) -> None:
        """Learn from what a store answered which life of the thread this is."""
        found = opened.run if isinstance(opened, Busy) else opened
        if self.incarnation is None and found is not None:
            self.incarnation = found.incarnation

    async def info(self) -> ThreadInfo | None:
        """What the store knows of the thread; None if it is meant to be new and was not used yet.

        Raises ThreadExistsError, ThreadNotFoundError, ThreadDeletedError.
        """
        if self.intent == "new" and self.incarnation is None and self.first_open is not None:
            with contextlib.suppress(HoldfastError):  # it may be this handle that makes the thread, at this moment
                await self.first_open
        seen = self.incarnation
        found = await self._store.get(self._id, deleted=True)
        if seen is not None:
            if found is None or found.deleted or found.incarnation != seen:
                raise deleted_error(self._id)
            return found
        if found is None or found.deleted:
            if self.intent == "existing":
                raise not_found_error(self._id, self._store.location)
            return None
        if self.intent == "new":
            raise ThreadExistsError(
                f"There is a thread {self._id!r} in {self._store.location} already. Take another id, or open the one "
                "that exists with get_thread(id).",
                thread_id=self._id,
            )
        self.incarnation = found.incarnation
        return found


def deleted_error(thread_id: str) -> ThreadDeletedError:
    return ThreadDeletedError(
        f"Thread {thread_id!r} was deleted; this handle cannot bring it back. "
        "Ask the agent for a new thread (get_new_thread) if you want to begin again under the same id.",
        thread_id=thread_id,
    )


def not_found_error(thread_id: str, location: str) -> ThreadNotFoundError:
    return ThreadNotFoundError(
        f"There is no thread {thread_id!r} in {location}. Check the id and the store, or use "
        "get_thread(id, create=True) to have it created.",
        thread_id=thread_id,
    )
