"""The errors of Anthropic's Messages: from a status and a body to an error that says what to do.

Rule of this file: the service's own words are read here, by the status or, inside a stream, by the `type` that stands
for one. What is not in its form, such as the page of a proxy, is read as any other server's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from holdfast.clients import openai_errors
from holdfast.clients.endpoints import Endpoint
from holdfast.clients.openai_chat_wire import loose_json
from holdfast.clients.openai_errors import shown
from holdfast.clients.retries import Fault, asked_wait, may_pass
from holdfast.conversation.errors import (
    AuthenticationError,
    BadRequestError,
    ContextTooLongError,
    RateLimitError,
    ServiceError,
    ServiceUnavailableError,
)

# The status that goes with each type: inside a stream there is no other.
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TOO_LONG = re.compile(
    r"(prompt|input|request|conversation) is too long|exceeds? (the )?(model'?s )?(maximum )?context"
    r"|context (window|limit|length) exceeded|too many (input |total )?tokens",
    re.IGNORECASE,
)
_SPENT = re.compile(r"credit balance is too low|spend limit|usage limits?", re.IGNORECASE)


class _Told(Struct):
    """What the service says, in its own form."""

    words: str
    kind: str
    request_id: str


def refused(endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes, now_us: int) -> Fault:
    """An answer whose status says that it is none."""
    try:
        told = _told(loose_json(body))
    except ValueError:
        told = None
    if told is None or 300 <= status < 400:
        return openai_errors.refused(endpoint, status, _with_id(headers), body, now_us)
    return _fault(endpoint, status, status, headers, told, now_us)


def reported(endpoint: Endpoint, status: int, headers: Mapping[str, str], error: Any, now_us: int) -> Fault:
    """An error object inside an answer that began well."""
    told = _told({"error": error})
    if told is None:
        return openai_errors.reported(endpoint, status, _with_id(headers), error, now_us)
    return _fault(endpoint, status, _STATUS[told.kind], headers, told, now_us)


def request_id(endpoint: Endpoint, headers: Mapping[str, str]) -> str | None:
    """The service's own id of a request."""
    found = headers.get("request-id")
    return shown(endpoint, found)[:200] if found else openai_errors.request_id(endpoint, headers)


def _told(found: Any) -> _Told | None:
    """What an error in the service's own form says; None for any other."""
    error = found.get("error") if isinstance(found, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    if not isinstance(error, dict) or not isinstance(kind, str) or kind not in _STATUS:
        return None
    words, named = error.get("message"), found.get("request_id")
    return _Told(words if isinstance(words, str) else "", kind, named if isinstance(named, str) else "")


def _fault(endpoint: Endpoint, status: int, meant: int, headers: Mapping[str, str], told: _Told, now_us: int) -> Fault:
    kind, what, advice = _sorted_out(meant, told, endpoint)
    words = shown(endpoint, told.words)
    named = request_id(endpoint, headers) or shown(endpoint, told.request_id)[:200] or None
    error = kind(
        f"{what}{': ' + words if words else ''}{'' if words.endswith(('.', '!', '?')) else '.'} {advice}",
        service=endpoint.service,
        status=status,
        request_id=named,
        service_code=shown(endpoint, told.kind)[:100],
        retry_after=asked_wait(headers, now_us),
    )
    return Fault(error, again=may_pass(meant, headers) and not _is_spent(meant, told))


def _sorted_out(status: int, told: _Told, endpoint: Endpoint) -> tuple[type[ServiceError], str, str]:
    """The kind of error, what happened, and what to do."""
    if status == 413:
        advice = "Shorten the conversation, or send smaller images and files."
        return ContextTooLongError, "The request is larger than the service takes", advice
    if _is_spent(status, told):
        return RateLimitError, "The credit or the limit of the account is used up", "Check its plan and billing."
    if status == 400 and _TOO_LONG.search(told.words):
        advice = "Shorten the conversation, ask for a lower max_tokens, or use a model that can read more."
        return ContextTooLongError, "The conversation is longer than the model can read", advice
    if status in (401, 403):
        return AuthenticationError, "The service does not accept the credential", endpoint.hint
    if status == 429:
        return RateLimitError, "There were too many requests or tokens", "Wait a while, or ask less at once."
    if status == 404:
        advice = f"Check {endpoint.asked} and {endpoint.setting}, {endpoint.form}."
        return BadRequestError, f"There is no such model or address at {endpoint.origin}", advice
    if status in (408, 409, 425) or status >= 500:
        return ServiceUnavailableError, "The service failed or is overloaded", "Try again later."
    advice = f"Check the options, {endpoint.asked} and {endpoint.setting}."
    return BadRequestError, "The service does not accept the request", advice


def _is_spent(status: int, told: _Told) -> bool:
    return status == 402 or (status in (400, 403, 429) and bool(_SPENT.search(told.words)))


def _with_id(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers as another dialect looks for the request's id in them."""
    found = headers.get("request-id")
    return {**{name.lower(): value for name, value in headers.items()}, "x-request-id": found} if found else headers
