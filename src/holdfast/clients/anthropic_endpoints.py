"""Where Anthropic's Messages are, at Anthropic or at a server that speaks the dialect, and with which key.

Rule of this file: it looks at settings and at no conversation. What is said of secrets in `endpoints` holds here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from holdfast.clients.endpoints import Endpoint, Secret, checked_key, checked_url, hidden, names_of, sent_headers
from holdfast.clients.environment import environment
from holdfast.conversation.errors import ConfigurationError

SERVICE = "anthropic"
ANTHROPIC_URL = "https://api.anthropic.com"
NEWEST, SAMPLING = "2026-10-21", "2023-06-01"  # the versions of the interface; the older one knows temperature
VERSIONS = (NEWEST, SAMPLING)
_PATH = "/v1/messages"


def anthropic_endpoint(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    version: str = NEWEST,
    default_headers: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """Messages at Anthropic or at a compatible server.

    What is None is taken from ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY. Raises ConfigurationError if the address, the
    key or the version is malformed, or if Anthropic itself is to be asked without a key.
    """
    environ = environment() if environ is None else environ
    given = base_url or environ.get("ANTHROPIC_BASE_URL") or ANTHROPIC_URL
    like = f"{ANTHROPIC_URL} or http://localhost:8080, as base_url= or in ANTHROPIC_BASE_URL"
    parts = checked_url(given, "base URL", like)
    path = parts.path.rstrip("/")
    if path.endswith((_PATH, "/v1")):
        raise ConfigurationError(f"The base URL ends in {path}: {_PATH} is added by itself. Give it like {like}.")
    if parts.scheme == "http" and is_anthropic(given):
        raise ConfigurationError(
            "The base URL begins with http://, which would show the key to the network; Anthropic's begins with "
            "https://."
        )
    key = api_key or environ.get("ANTHROPIC_API_KEY")
    if not key and not names_of(default_headers) & {"x-api-key", "authorization"} and is_anthropic(given):
        raise ConfigurationError(
            "There is no key for Anthropic: set ANTHROPIC_API_KEY, or pass api_key=. "
            "For a compatible server of your own, which may need none, set ANTHROPIC_BASE_URL or pass base_url=."
        )
    if version not in VERSIONS:
        raise ConfigurationError(f"version is one of {', '.join(VERSIONS)}; got {version!r}.")
    own = {"anthropic-version": Secret(version)}
    if key:
        own["x-api-key"] = Secret(checked_key(key))
    return Endpoint(
        SERVICE,
        f"{given.rstrip('/')}{_PATH}",
        sent_headers(own, default_headers),
        "Check the key (ANTHROPIC_API_KEY or api_key=) and its rights.",
        hidden([key or ""], default_headers, parts.path),
        form=f"which is what comes before {_PATH}",
    )


def anthropic_model(model: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The model that is asked where a request names none: the argument, else ANTHROPIC_CHAT_MODEL_ID."""
    environ = environment() if environ is None else environ
    return model or environ.get("ANTHROPIC_CHAT_MODEL_ID") or None


def is_anthropic(url: str) -> bool:
    """True for Anthropic's own hosts, False for compatible servers."""
    host = urlsplit(url).hostname or ""
    return host == "anthropic.com" or host.endswith(".anthropic.com")
