"""Places: what --store means, and whether there is anything.

Rule of this file: to look at threads creates nothing; only a chat makes the file that it needs.
"""

from __future__ import annotations

import os
import re

from holdfast.cli.trouble import Trouble
from holdfast.ports.stores import ThreadStore
from holdfast.settings import data_directory, open_store, user_store
from holdfast.stores.sqlite import SQLiteStore

# Two letters at least: C:\chats.db is a path.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def to_write(given: str | None) -> ThreadStore:
    """The store for a chat: what was given, else the one in the user's data directory. Raises ConfigurationError."""
    if given is None:
        return user_store()
    return open_store(given) if _URL.match(given) else SQLiteStore(given)


def to_read(given: str | None) -> ThreadStore:
    """A store that is there already. Raises Trouble if there is none."""
    if given is None and not os.path.isdir(data_directory()):
        raise Trouble(f"There are no threads yet: {data_directory()} does not exist. Begin one with: holdfast chat")
    store = to_write(given)
    if isinstance(store, SQLiteStore) and not os.path.exists(store.location):
        advice = "Begin one with: holdfast chat" if given is None else "Check --store."
        raise Trouble(f"There are no threads: {store.location} does not exist. {advice}")
    return store
