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

from holdfast.clients.environment import environment, layers
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


def client_from_environment(*, model: str | None = None, base_url: str | None = None) -> ChatClient:
    """The chat client that arguments and environment ask for; without any, the offline one.

    Whoever says first which service it is, decides:

        1. `base_url`                                            OpenAI's client, for that server
        2. the environment: OPENAI_API_KEY or OPENAI_BASE_URL    OpenAI's client
                            AZURE_OPENAI_ENDPOINT or _BASE_URL   Azure's client
                            ANTHROPIC_API_KEY or _BASE_URL       Anthropic's client
        3. the `.env` file of the current directory              the same
        4. `model`                                               OpenAI's client, which says what is missing
        5. nobody                                                the offline client

    So OpenAI's key in the environment goes before Azure's address beside it, but Azure's address in the environment
    before OpenAI's key in a file. A variable that is empty is not set. `model` is the service's name of a model, or
    Azure's of a deployment. Azure's client without AZURE_OPENAI_API_KEY uses DefaultAzureCredential of azure-identity,
    which tries what the machine offers, the Azure CLI among it.
    Raises ConfigurationError if something is set, but not enough of it.
    """
    known = layers()
    environ = environment(known)
    if base_url:
        return _openai(model, base_url)
    for layer in known:
        if any(name in layer and environ[name] for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL")):
            return _openai(model, None)
        if any(name in layer and environ[name] for name in ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_BASE_URL")):
            return _azure(model, None if environ.get("AZURE_OPENAI_API_KEY") else _default_credential())
        if any(name in layer and environ[name] for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")):
            return cast(ChatClient, _load("holdfast.clients.anthropic", "AnthropicChatClient")(model))
    if model:
        return _openai(model, None)
    return cast(ChatClient, _load("holdfast.clients.offline", "OfflineChatClient")(delay=0.03))


def _openai(model: str | None, base_url: str | None) -> ChatClient:
    return cast(ChatClient, _load("holdfast.clients.openai_chat", "OpenAIChatClient")(model, base_url=base_url))


def _azure(deployment: str | None, credential: object | None) -> ChatClient:
    made = _load("holdfast.clients.azure_openai", "AzureOpenAIChatClient")(deployment, credential=credential)
    return cast(ChatClient, made)


def _default_credential() -> object:
    try:
        return _load("azure.identity", "DefaultAzureCredential")()
    except ImportError:
        raise ConfigurationError(
            "There is no key for Azure OpenAI, and azure-identity is not installed: set AZURE_OPENAI_API_KEY, or "
            "pip install 'holdfast[azure]' and sign in (az login)."
        ) from None


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
