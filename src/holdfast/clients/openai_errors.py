"""The errors of services that speak OpenAI's dialect: from a status and a body to an error that says what to do.

Rule of this file: the type says whose fault it is, the message holds the service's own words, cut to size and
without anything that looks like a key. Compatible servers have forms of their own; any body gives an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from holdfast.clients.endpoints import Endpoint
from holdfast.clients.openai_chat_wire import loose_json
from holdfast.clients.retries import Fault, asked_wait, may_pass
from holdfast.conversation.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextTooLongError,
    RateLimitError,
    ServiceError,
    ServiceUnavailableError,
)

LONGEST_WORDS = 500
_SPENT = frozenset(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"))
_FILTERED = frozenset(
    ("content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked")
)
_TOO_LONG = frozenset(("context_length_exceeded", "exceed_context_size_error", "string_above_max_length"))
_TOO_LONG_WORDS = re.compile(
    r"maximum context|context[ _-](length|window|size)|(prompt|input|request|conversation) is too long"
    r"|too many (input |prompt )?tokens|reduce the length|exceeds? the (model'?s )?(maximum )?context",
    re.IGNORECASE,
)
_KEY_WORDS = re.compile(r"api[ _-]?key (is )?(not valid|invalid)|(invalid|incorrect) api[ _-]?key", re.IGNORECASE)
# Control characters, also those that turn text around or end a line in a terminal or a log.
_CONTROL = re.compile("[\\x00-\\x20\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
# What a word in an error without a status means, as one inside a stream that began well.
_MEANT = (
    (re.compile(r"rate_limit|too_many_requests|quota|throttl", re.IGNORECASE), 429),
    (re.compile(r"authentication|permission|unauthorized|invalid_api_key", re.IGNORECASE), 401),
    (re.compile(r"invalid|not_found|bad_?request|unsupported|context|content_filter", re.IGNORECASE), 400),
)


class _Told(Struct):
    """What a body says, whatever its form."""

    words: str = ""
    code: str = ""
    kind: str = ""
    filtered: str = ""

    @property
    def service_code(self) -> str | None:
        """The most telling of the service's words for it; a number says least."""
        word = self.code if self.code and not self.code.isdecimal() else self.kind
        return word or self.code or None


def refused(endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes, now_us: int) -> Fault:
    """An answer whose status says that it is none."""
    try:
        told = _told(loose_json(body))
    except ValueError:
        told = _Told(_of_page(body))
    if 300 <= status < 400:
        told = _Told(f"it sends us to {_address(headers.get('location', ''))}")
    return _fault(endpoint, status, status, headers, told, now_us)


def reported(endpoint: Endpoint, status: int, headers: Mapping[str, str], error: Any, now_us: int) -> Fault:
    """An error object inside an answer that began well."""
    told = _told({"error": error})
    meant = int(told.code) if told.code.isdecimal() and len(told.code) == 3 else 0
    if not 400 <= meant < 600:
        word = f"{told.code} {told.kind}"
        meant = next((number for pattern, number in _MEANT if pattern.search(word)), 500)
    return _fault(endpoint, status, meant, headers, told, now_us)


def _fault(endpoint: Endpoint, status: int, meant: int, headers: Mapping[str, str], told: _Told, now_us: int) -> Fault:
    kind, what, advice = _sorted_out(meant, told, endpoint)
    words = shown(endpoint, told.words + (f" (filtered: {told.filtered})" if told.filtered else ""))
    code = told.service_code
    error = kind(
        f"{what}{': ' + words if words else ''}{'' if words.endswith(('.', '!', '?')) else '.'} {advice}",
        service=endpoint.service,
        status=status,
        request_id=request_id(endpoint, headers),
        service_code=shown(endpoint, code)[:100] if code else None,
        retry_after=asked_wait(headers, now_us),
    )
    return Fault(error, again=may_pass(meant, headers) and not _is_spent(told))


def _sorted_out(status: int, told: _Told, endpoint: Endpoint) -> tuple[type[ServiceError], str, str]:
    """The kind of error, what happened, and what to do."""
    marks = {told.code.lower(), told.kind.lower()}
    refusal = status in (400, 413, 422)
    if 400 <= status < 500 and (told.filtered or marks & _FILTERED):
        return ContentFilteredError, "The service's content filter refused the input", "Say it in other words."
    if 400 <= status < 500 and (marks & _TOO_LONG or (refusal and _TOO_LONG_WORDS.search(told.words))):
        advice = "Shorten the conversation, or use a model that can read more."
        return ContextTooLongError, "The conversation is longer than the model can read", advice
    if status in (401, 403) or (status == 400 and _KEY_WORDS.search(told.words)):
        return AuthenticationError, "The service does not accept the credential", endpoint.hint
    if status == 402 or (status == 429 and _is_spent(told)):
        return RateLimitError, "The quota is used up", "Check the plan and the billing of the account."
    if status == 429:
        return RateLimitError, "There were too many requests or tokens", "Wait a while, or ask less at once."
    if status == 407:
        return ServiceUnavailableError, "The proxy asks for a credential", "Check HTTPS_PROXY, HTTP_PROXY, NO_PROXY."
    if status == 404:
        advice = f"Check {endpoint.asked} and {endpoint.setting}, {endpoint.form}."
        return BadRequestError, f"There is no such model or address at {endpoint.origin}", advice
    if status == 413:
        advice = "Shorten the conversation, send smaller images and files, or raise the limit of the proxy in between."
        return ContextTooLongError, "The request is larger than the service takes", advice
    if status in (408, 409, 425) or status >= 500:
        return ServiceUnavailableError, "The service failed or is overloaded", "Try again later."
    if 300 <= status < 400:
        advice = f"Check {endpoint.setting}; redirects are not followed."
        return BadRequestError, "The service is not at this address", advice
    advice = f"Check the options, {endpoint.asked} and {endpoint.setting}."
    return BadRequestError, "The service does not accept the request", advice


def _is_spent(told: _Told) -> bool:
    return told.code in _SPENT or told.kind in _SPENT


def shown(endpoint: Endpoint, words: str) -> str:
    """A service's words as they may be shown: on one line, without secrets, of bounded length."""
    return brief(endpoint.masked(words))


def brief(words: str) -> str:
    """Somebody else's words on one line, of bounded length."""
    words = _CONTROL.sub(" ", words).strip()
    return words if len(words) <= LONGEST_WORDS else words[: LONGEST_WORDS - 1] + "…"


def request_id(endpoint: Endpoint, headers: Mapping[str, str]) -> str | None:
    """The service's own id of a request."""
    found = headers.get("x-request-id") or headers.get("apim-request-id")
    return shown(endpoint, found)[:200] if found else None


def _told(found: Any) -> _Told:
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return _Told(found if isinstance(found, str) else "")
    error = found.get("error") or found
    if not isinstance(error, dict):
        return _Told(str(error), _word(found.get("code")), _word(found.get("type")))
    inner = error.get("innererror") or error.get("inner_error")  # both are Azure's
    inner = inner if isinstance(inner, dict) else {}
    results = inner.get("content_filter_result") or inner.get("content_filter_results")
    filtered = ""
    if isinstance(results, dict):
        filtered = ", ".join(
            name
            for name, one in results.items()
            if isinstance(one, dict) and (one.get("filtered") or one.get("detected"))
        )
    code = _word(error.get("code"))
    if _word(inner.get("code")).lower() in _FILTERED:
        code = "content_filter"
    return _Told(_words(error), code, _word(error.get("type")), filtered)


def _words(error: dict[str, Any]) -> str:
    for name in ("message", "msg", "detail", "error_description", "title"):
        said = error.get(name)
        if isinstance(said, list):  # FastAPI: one object for each field that is wrong
            said = "; ".join(_words(item) if isinstance(item, dict) else str(item) for item in said[:5])
        if isinstance(said, dict):
            said = _words(said)
        if isinstance(said, str) and said:
            return said
    return ""


def _word(found: Any) -> str:
    return str(found) if isinstance(found, (str, int)) and not isinstance(found, bool) else ""


def _of_page(body: bytes) -> str:
    """What a body that is no JSON says: the title of a page, or the text."""
    text = body.decode("utf-8", "replace").strip()
    if not text.startswith("<"):
        return text
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    return f"a web page, {title[1].strip()!r}" if title and title[1].strip() else "a web page"


def _address(location: str) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an address that is malformed"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path or "no address"
