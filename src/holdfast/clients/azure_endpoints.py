"""Azure OpenAI's endpoints: the address of a deployment in either of its forms, and what is sent to be let in.

Rule of this file: an argument goes before what the environment says, that before the `.env` file. What is asked for
twice, or cannot be, is refused before anything is sent.

    https://NAME.openai.azure.com/openai/v1/chat/completions                       the deployment is the body's model
    https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT/chat/completions?api-version=2024-10-21
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import quote

from msgspec import Struct

from holdfast.clients.endpoints import (
    Endpoint,
    Headers,
    Secret,
    checked_key,
    checked_url,
    hidden,
    names_of,
    sent_headers,
)
from holdfast.clients.environment import environment
from holdfast.clients.tokens import Tokens
from holdfast.conversation.errors import ConfigurationError

SERVICE = "azure-openai"
SCOPE = "https://cognitiveservices.azure.com/.default"

# The first version that knows max_completion_tokens and stream_options.
_MODERN = "2024-09-01"
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_V1 = ("v1", "latest")
_KEY_HEADERS = frozenset(("authorization", "api-key"))
_LIKE = "https://NAME.openai.azure.com, as endpoint= or in AZURE_OPENAI_ENDPOINT"
_LIKE_BASE = "https://gateway.example/openai/v1, as base_url= or in AZURE_OPENAI_BASE_URL"


class Deployment(Struct, frozen=True):
    """A model that is deployed, and where.

    `version` is the dated version of the interface, None for the v1 endpoint. `path` is what of the address the
    caller gave, and may hold a token of a gateway. `setting` is how the address was given.
    """

    name: str
    url: str
    path: str
    version: str | None
    setting: str

    @property
    def is_modern(self) -> bool:
        """True if it knows today's words for the length of an answer and for the usage of a stream."""
        return self.version is None or self.version >= _MODERN

    @property
    def is_in_address(self) -> bool:
        """True if the address names the deployment; the model that a body names is not looked at there."""
        return "/deployments/" in self.url


def azure_deployment(
    name: str | None = None,
    *,
    endpoint: str | None = None,
    base_url: str | None = None,
    api_version: str | None = None,
    known: Sequence[Mapping[str, str]],
) -> Deployment:
    """Which deployment is asked, and at which address.

    What is None or empty is taken from AZURE_OPENAI_CHAT_DEPLOYMENT_NAME, AZURE_OPENAI_BASE_URL or
    AZURE_OPENAI_ENDPOINT, and AZURE_OPENAI_API_VERSION in `known` (see `holdfast.clients.environment.layers`).
    Raises ConfigurationError for what is missing, malformed, or would show a credential to the network.
    """
    environ = environment(known)
    name = name or environ.get("AZURE_OPENAI_CHAT_DEPLOYMENT_NAME")
    if not name:
        raise ConfigurationError(
            "No deployment is named: set AZURE_OPENAI_CHAT_DEPLOYMENT_NAME, or pass deployment_name=. "
            "It is the name that was given to the model when it was deployed."
        )
    if endpoint and base_url:
        raise ConfigurationError("Give endpoint= or base_url=, not both; base_url is for an address of another form.")
    if not endpoint and not base_url:
        chosen = _first(known, environ, ("AZURE_OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"))
        if chosen is None:
            raise ConfigurationError(
                "There is no address: set AZURE_OPENAI_ENDPOINT, or pass endpoint=, like https://NAME.openai.azure.com."
            )
        endpoint, base_url = (None, environ[chosen]) if chosen.endswith("BASE_URL") else (environ[chosen], None)
    version, query = _version(api_version or environ.get("AZURE_OPENAI_API_VERSION"))
    given = base_url or endpoint or ""
    what, like = ("base URL", _LIKE_BASE) if base_url else ("endpoint", _LIKE)
    if isinstance(given, str) and not base_url and "/deployments/" in given:
        raise ConfigurationError(
            "The endpoint is the address of a deployment. Give its parts: up to the host as endpoint=, what follows "
            "/deployments/ as deployment_name=, and what follows api-version= as api_version=, or leave that out."
        )
    parts = checked_url(given, what, like)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            f"The {what} begins with http://, which would show the credential to the network; give it with https://. "
            "Without it only this machine (localhost, 127.0.0.1, [::1]) is asked."
        )
    root = given.rstrip("/")
    if base_url and root.endswith("/v1") and version:
        version, query = None, ""  # a date that the environment sets for others
    in_path = f"/deployments/{quote(name, safe='')}" if version and "/deployments/" not in parts.path else ""
    if not base_url:
        root = root.removesuffix("/openai/v1").removesuffix("/openai") + ("/openai" if version else "/openai/v1")
    setting = "base_url" if base_url else "the endpoint"
    return Deployment(name, f"{root}{in_path}/chat/completions{query}", parts.path, version, setting)


def azure_endpoint(
    deployment: Deployment,
    *,
    api_key: str | None = None,
    ad_token: str | None = None,
    tokens: Tokens | None = None,
    default_headers: Mapping[str, str] | None = None,
    environ: Mapping[str, str],
) -> Endpoint:
    """The endpoint of a deployment, with one credential: a key, a token, or what hands out tokens.

    If none is given, and no header of the caller's stands for one, it is AZURE_OPENAI_API_KEY of `environ`.
    Raises ConfigurationError if there is none, if there is more than one, or if it is malformed.
    """
    given = {"api_key=": api_key, "ad_token=": ad_token, "ad_token_provider= or credential=": tokens}
    chosen = [name for name, value in given.items() if value]
    chosen += [f"the header {name!r}" for name in sorted(names_of(default_headers) & _KEY_HEADERS)]
    if len(chosen) > 1:
        raise ConfigurationError(f"Give one credential; there are {', '.join(chosen)}.")
    if not chosen:
        api_key = environ.get("AZURE_OPENAI_API_KEY")
    if not chosen and not api_key and "ocp-apim-subscription-key" not in names_of(default_headers):
        raise ConfigurationError(
            "There is no credential for Azure OpenAI: pass credential=, such as AzureCliCredential() of azure.identity "
            "(pip install 'holdfast[azure]'), or set AZURE_OPENAI_API_KEY, or pass api_key=."
        )
    own: dict[str, Secret] = {}
    if api_key:
        own["api-key"] = Secret(checked_key(api_key))
    elif ad_token:
        own["Authorization"] = Secret(f"Bearer {checked_key(ad_token)}")
    fixed = sent_headers(own, default_headers)
    path = deployment.path.replace(f"/{deployment.name}", "")  # it is no secret
    secrets = hidden([api_key or "", ad_token or ""], default_headers, path)
    hint = "Check that the identity may use this resource (it needs the role Cognitive Services OpenAI User)."
    if api_key:
        hint = "Check the key (AZURE_OPENAI_API_KEY or api_key=), and that it is one of this resource."
    return Endpoint(
        SERVICE,
        deployment.url,
        fixed if tokens is None else _with_token(fixed, tokens),
        hint,
        secrets if tokens is None else lambda: (*tokens.secrets(), *secrets),
        deployment.setting,
        "which comes before /chat/completions" if deployment.setting == "base_url" else f"which is like {_LIKE}",
        "the deployment's name" + (", api_version" if deployment.version else ""),
    )


def token_scope(token_endpoint: str | None, environ: Mapping[str, str]) -> str:
    """For what a credential is asked for tokens: the argument, AZURE_OPENAI_TOKEN_ENDPOINT, or the public cloud's."""
    return token_endpoint or environ.get("AZURE_OPENAI_TOKEN_ENDPOINT") or SCOPE


def _with_token(fixed: Headers, tokens: Tokens) -> Callable[[], Headers]:
    def headers() -> Headers:
        token = tokens.current
        return fixed if token is None else {**fixed, "Authorization": Secret(f"Bearer {token.secret.reveal()}")}

    return headers


def _first(known: Sequence[Mapping[str, str]], environ: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The first of these names that is set, looked for where it counts most; None if none is."""
    return next((name for layer in known for name in names if name in layer and environ[name]), None)


def _version(given: str | None) -> tuple[str | None, str]:
    """The dated version or None, and the query that says it."""
    if not given or given in _V1:
        return None, ""
    if given == "preview":
        return None, "?api-version=preview"
    if not isinstance(given, str) or not _DATED.fullmatch(given):
        raise ConfigurationError(
            f"The api_version is a date like 2024-10-21 or 2025-04-01-preview; got {given!r}. "
            "Leave it out (and AZURE_OPENAI_API_VERSION unset), or give 'v1', for the v1 endpoint."
        )
    return given, f"?api-version={given}"


def _is_loopback(host: str) -> bool:
    """True for a name or an address of this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
