"""Endpoints: where a service is, and with which credential it is asked.

Rule of this file: a credential is revealed to the transport and to nobody else. Whatever else looks at it,
an error, a log, a debugger's repr, sees ***.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from holdfast import __version__
from holdfast.clients.environment import environment
from holdfast.conversation.errors import ConfigurationError

OPENAI_URL = "https://api.openai.com/v1"
HIDDEN = "***"

_NOT_IN_URL = re.compile(r"[^\x21-\x7e]")
_NOT_IN_KEY = re.compile(r"[^\x21-\x7e]")
_NOT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = frozenset(("content-length", "transfer-encoding", "connection", "host"))
# What looks like a credential of anybody: OpenAI's own message about a wrong key repeats parts of it. The last is how
# a signed token begins.
_LIKE_A_KEY = re.compile(r"\bsk-[^\s\"',;]+|(?<=[Bb]earer )[^\s\"',;]+|\beyJ[\w-]{8,}\.[\w.-]+")


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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


Headers: TypeAlias = Mapping[str, Secret]


class Endpoint(Struct, frozen=True):
    """One address of one service.

    `service` is its name in errors and in the log. `headers` are sent with every request; a callable is asked
    anew for each. `hint` is what to do about a credential that is not accepted, `setting` and `form` are how the
    address is given and what it looks like, `asked` is what else may be wrong if nothing is found there. `secrets` are
    the texts that `masked` hides; a callable is asked each time.
    """

    service: str
    url: str
    headers: Headers | Callable[[], Headers]
    hint: str = ""
    secrets: tuple[Secret, ...] | Callable[[], tuple[Secret, ...]] = ()
    setting: str = "base_url"
    form: str = "which ends in /v1 for most servers"
    asked: str = "the model's name"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be shown of the address (a path may hold a token)."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def masked(self, text: str) -> str:
        """The text without our secrets and without anything that looks like a key."""
        for secret in self.secrets() if callable(self.secrets) else self.secrets:
            text = text.replace(secret.reveal(), HIDDEN)
        return without_keys(text)


def without_keys(text: str) -> str:
    """The text without anything that looks like a key, whosever it is."""
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
    environ = environment() if environ is None else environ
    given = base_url or environ.get("OPENAI_BASE_URL") or OPENAI_URL
    like = f"{OPENAI_URL} or http://localhost:8080/v1, as base_url= or in OPENAI_BASE_URL"
    parts = checked_url(given, "base URL", like)
    if parts.scheme == "http" and is_openai(given):
        raise ConfigurationError(
            "The base URL begins with http://, which would show the key to the network; OpenAI's begins with https://."
        )
    key = api_key or environ.get("OPENAI_API_KEY")
    if not key and "authorization" not in names_of(default_headers) and is_openai(given):
        raise ConfigurationError(
            "There is no key for OpenAI: set OPENAI_API_KEY, or pass api_key=. "
            "For a compatible server of your own, which may need none, set OPENAI_BASE_URL or pass base_url=."
        )
    own: dict[str, Secret] = {}
    if key:
        own["Authorization"] = Secret(f"Bearer {checked_key(key)}")
    organization = organization or environ.get("OPENAI_ORG_ID")
    if organization:
        own["OpenAI-Organization"] = _checked_header("organization", organization)
    return Endpoint(
        "openai",
        f"{given.rstrip('/')}/chat/completions",
        sent_headers(own, default_headers),
        "Check the key (OPENAI_API_KEY or api_key=) and its rights.",
        hidden([key or ""], default_headers, parts.path),
    )


def sent_headers(own: Mapping[str, Secret], given: Mapping[str, str] | None) -> dict[str, Secret]:
    """What is sent with every request. What the caller has `given` takes the place of ours."""
    found = {
        "Accept": Secret("application/json"),
        "Accept-Encoding": Secret("identity"),
        "Content-Type": Secret("application/json"),
        "User-Agent": Secret(f"holdfast/{__version__}"),
        **own,
    }
    for name, value in (given or {}).items():
        secret = _checked_header(f"the header {name!r}", value, name)
        for known in [known for known in found if known.lower() == name.lower()]:
            del found[known]
        found[name] = secret
    return found


def hidden(keys: Iterable[str], given: Mapping[str, str] | None, path: str) -> tuple[Secret, ...]:
    """The texts that no error may show: our keys, the values of headers, and what in a path may be a token."""
    words = list(keys)
    for value in (given or {}).values():
        words.extend((value, *value.split()))
    # Some gateways put a token into the path.
    words.extend(word for word in path.split("/") if len(word) >= 16)
    # The long ones first, as one may be part of another. What is short is no secret, and would make holes in words.
    return tuple(Secret(word) for word in sorted(set(words), key=len, reverse=True) if len(word) >= 6)


def names_of(given: Mapping[str, str] | None) -> set[str]:
    """The names of headers in lower case."""
    return {name.lower() for name in given or ()}


def openai_model(model: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The model that is asked where a request names none: the argument, else OPENAI_CHAT_MODEL_ID."""
    environ = environment() if environ is None else environ
    return model or environ.get("OPENAI_CHAT_MODEL_ID") or None


def is_openai(url: str) -> bool:
    """True for OpenAI's own hosts (also its regional ones), False for compatible servers."""
    host = urlsplit(url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def checked_url(url: str, what: str, like: str) -> SplitResult:
    """The parts of an address up to /chat/completions. Raises ConfigurationError if it is malformed, or holds a secret.

    `what` and `like` are how the error calls it, and how it should look.
    """

    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(f"The {what} {why}. Give it like {like}.")

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
    return parts


def is_sendable(key: str) -> bool:
    """True if it can be a key or a token: there is something, and nothing in it that no key has."""
    return bool(key) and not _NOT_IN_KEY.search(key)


def checked_key(key: str) -> str:
    """The key, if it can be one. Raises ConfigurationError, which says where in it is what no key has."""
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
