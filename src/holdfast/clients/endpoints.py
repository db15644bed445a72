"""Endpoints: where a service is, and with which credential it is asked.

Rule of this file: a credential is revealed to the transport and to nobody else. Whatever else looks at it,
an error, a log, a debugger's repr, sees ***.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from holdfast import __version__
from holdfast.conversation.errors import ConfigurationError

OPENAI_URL = "https://api.openai.com/v1"
HIDDEN = "***"

_NOT_IN_URL = re.compile(r"[^\x21-\x7e]")
_NOT_IN_KEY = re.compile(r"[^\x21-\x7e]")
_NOT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = frozenset(("content-length", "transfer-encoding", "connection", "host"))
# What looks like a credential of anybody: OpenAI's own message about a wrong key repeats parts of it.
_LIKE_A_KEY = re.compile(r"\bsk-[^\s\"',;]+|(?<=[Bb]earer )[^\s\"',;]+")


class Secret:
    """A text that is shown to nobody."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Only the transport asks for it, and `Endpoint.masked`, to take it out of what is shown."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN


Headers: TypeAlias = Mapping[str, Secret]


class Endpoint(Struct, frozen=True):
    """One address of one service.

    `service` is its name in errors and in the log. `headers` are sent with every request; a callable is asked
    anew for each. `hint` tells where its credential is set. `secrets` are the texts that `masked` hides.
    """

    service: str
    url: str
    headers: Headers | Callable[[], Headers]
    hint: str = ""
    secrets: tuple[Secret, ...] = ()

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be shown of the address (a path may hold a token)."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def masked(self, text: str) -> str:
        """The text without our secrets and without anything that looks like a key."""
        for secret in self.secrets:
            text = text.replace(secret.reveal(), HIDDEN)
        return _LIKE_A_KEY.sub(HIDDEN, text)


def openai_endpoint(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    organization: str | None = None,
    default_headers: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """Chat Completions at OpenAI or at a compatible server.

    What is None is taken from OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_ORG_ID. Raises ConfigurationError if the
    address or the key is malformed, or if OpenAI itself is to be asked without a key.
    """
    environ = os.environ if environ is None else environ
    given = base_url or environ.get("OPENAI_BASE_URL") or OPENAI_URL
    parts = _checked_url(given)
    key = api_key or environ.get("OPENAI_API_KEY")
    own = {name.lower() for name in default_headers or ()}
    if not key and "authorization" not in own and is_openai(given):
        raise ConfigurationError(
            "There is no key for OpenAI: set OPENAI_API_KEY, or pass api_key=. "
            "For a compatible server of your own, which may need none, set OPENAI_BASE_URL or pass base_url=."
        )
    headers: dict[str, Secret] = {
        "Accept": Secret("application/json"),
        "Accept-Encoding": Secret("identity"),
        "Content-Type": Secret("application/json"),
        "User-Agent": Secret(f"holdfast/{__version__}"),
    }
    words: list[str] = []
    if key:
        headers["Authorization"] = Secret(f"Bearer {_checked_key(key)}")
        words.append(key)
    organization = organization or environ.get("OPENAI_ORG_ID")
    if organization:
        headers["OpenAI-Organization"] = _checked_header("organization", organization)
    for name, value in (default_headers or {}).items():
        secret = _checked_header(f"the header {name!r}", value, name)
        for known in [known for known in headers if known.lower() == name.lower()]:
            del headers[known]
        headers[name] = secret
        words.extend((value, *value.split()))
    # Some gateways put a token into the path.
    words.extend(word for word in parts.path.split("/") if len(word) >= 16)
    # The long ones first, as one may be part of another. What is short is no secret, and would make holes in words.
    secrets = tuple(Secret(word) for word in sorted(set(words), key=len, reverse=True) if len(word) >= 6)
    url = f"{given.rstrip('/')}/chat/completions"
    return Endpoint("openai", url, headers, "OPENAI_API_KEY or api_key=", secrets)


def openai_model(model: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The model that is asked where a request names none: the argument, else OPENAI_CHAT_MODEL_ID."""
    environ = os.environ if environ is None else environ
    return model or environ.get("OPENAI_CHAT_MODEL_ID") or None


def is_openai(url: str) -> bool:
    """True for OpenAI's own hosts (also its regional ones), False for compatible servers."""
    host = urlsplit(url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _checked_url(url: str) -> SplitResult:
    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The base URL {why}. Give it like {OPENAI_URL} or http://localhost:8080/v1, "
            "as base_url= or in OPENAI_BASE_URL."
        )

    # urlsplit would silently drop tabs and line ends.
    if not isinstance(url, str) or _NOT_IN_URL.search(url):
        raise wrong("holds spaces, control characters or characters outside ASCII")
    problem = ""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        problem = "is malformed"
    # Raised out here: the ValueError holds the address, which may hold a secret.
    if problem:
        raise wrong(problem)
    if parts.scheme not in ("http", "https"):
        raise wrong("does not begin with https:// or http://")
    if not parts.hostname:
        raise wrong("names no host")
    if "@" in parts.netloc:
        raise wrong("holds a user name or password, which would be seen in logs; pass the key as api_key= instead")
    if "?" in url or "#" in url:
        raise wrong("holds a query or a fragment (what follows ? or #), which cannot be kept when a path is added")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise wrong("ends in /chat/completions, which is added by itself; leave it out")
    if parts.scheme == "http" and is_openai(url):
        raise wrong("begins with http://, which would show the key to the network; OpenAI's begins with https://")
    return parts


def _checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise ConfigurationError(f"The key is a string; got {type(key).__name__}.")
    found = _NOT_IN_KEY.search(key)
    if found:
        raise ConfigurationError(
            f"The key holds a character that no key has (white space, a control character or one outside ASCII) "
            f"at position {found.start()} of {len(key)}. If it was read from a file, strip it: key.strip()."
        )
    return key


def _checked_header(what: str, value: str, name: str = "X") -> Secret:
    if not isinstance(value, str) or _NOT_IN_HEADER.search(value):
        raise ConfigurationError(f"The value of {what} is not a string without control characters.")
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot be the name of a header.")
    if name.lower() in _RESERVED:
        raise ConfigurationError(f"The header {name} is made by the transport; leave it out of default_headers.")
    return Secret(value)
