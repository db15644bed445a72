"""Settings: environment and URLs become objects. The only place that sees the engine, the clients and the stores.

A lazy boundary (ARCHITECTURE.md): what is not asked for is not imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from holdfast.conversation.errors import ConfigurationError
from holdfast.ports.clients import ChatClient
from holdfast.ports.stores import ThreadStore


def open_store(url: str) -> ThreadStore:
    """The store that an URL names; nothing is opened yet.

        memory:                       in this process, gone with it
        sqlite:///chats.db            a file, relative to where you are
        sqlite:////var/lib/chats.db   a file, by its whole path

    Raises ConfigurationError for any other URL.
    """
    scheme, _, rest = url.partition(":")
    known = _STORES.get(scheme)
    if known is None:
        raise ConfigurationError(
            f"{url!r} names no store. Use one of: memory:, sqlite:///relative/path.db, sqlite:////whole/path.db."
        )
    return known(rest)


def _memory(rest: str) -> ThreadStore:
    if rest not in ("", "//"):
        raise ConfigurationError(f"A store in memory is just 'memory:'; got 'memory:{rest}'.")
    return cast(ThreadStore, _load("holdfast.stores.memory", "MemoryStore")())


def _sqlite(rest: str) -> ThreadStore:
    parts = urlsplit(f"sqlite:{rest}")
    path = unquote(parts.path.removeprefix("/"))
    if not rest.startswith("///") or not path or parts.query or parts.fragment:
        raise ConfigurationError(
            f"'sqlite:{rest}' names no file. Three slashes and a path: sqlite:///chats.db, or four for a whole path."
        )
    return cast(ThreadStore, _load("holdfast.stores.sqlite", "SQLiteStore")(path))


_STORES: dict[str, Callable[[str], ThreadStore]] = {"memory": _memory, "sqlite": _sqlite}


def client_from_environment(
    *, model: str | None = None, base_url: str | None = None, environ: Mapping[str, str] = os.environ
) -> ChatClient:
    """The chat client that arguments and environment ask for: OpenAI's, or a compatible server's; else the offline one.

    Raises ConfigurationError if something is set, but not enough of it.
    """
    if model or base_url or environ.get("OPENAI_API_KEY") or environ.get("OPENAI_BASE_URL"):
        return cast(ChatClient, _load("holdfast.clients.openai_chat", "OpenAIChatClient")(model, base_url=base_url))
    return cast(ChatClient, _load("holdfast.clients.offline", "OfflineChatClient")(delay=0.03))


def data_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Where this user's threads are kept: by the XDG base directory specification, or the system's own custom."""
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Application Support", "holdfast")
    base = environ.get("XDG_DATA_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(home, ".local", "share"), "holdfast")


def user_store() -> ThreadStore:
    """The store in the user's data directory; the directory is made for its owner alone."""
    folder = data_directory()
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return cast(ThreadStore, _load("holdfast.stores.sqlite", "SQLiteStore")(os.path.join(folder, "threads.db")))


def _load(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
