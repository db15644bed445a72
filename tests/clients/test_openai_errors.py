"""Errors of OpenAI's dialect: from what a service says to an error that says what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clients.endpoints import openai_endpoint
from holdfast.clients.openai_errors import refused, reported
from holdfast.conversation.errors import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextTooLongError,
    RateLimitError,
    ServiceError,
    ServiceUnavailableError,
)

KEY = "sk-canary-0123456789abcdef"
ENDPOINT = openai_endpoint(
    base_url="https://gateway.example/canary-path-0123456789/v1",
    api_key=KEY,
    default_headers={"X-Token": "canary-header-0123456789"},
    environ={},
)


def error_of(status: int, body: Any, headers: dict[str, str] | None = None) -> ServiceError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refused(ENDPOINT, status, headers or {}, content, 0).error


def openai(message: str = "Words.", code: Any = None, type: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, openai("Incorrect API key provided", "invalid_api_key"), AuthenticationError),
        (403, openai("Country not supported", "unsupported_country_region_territory"), AuthenticationError),
        (400, openai("API key not valid. Please pass a valid API key."), AuthenticationError),
        (402, openai("Insufficient Balance"), RateLimitError),
        (429, openai("Rate limit reached", "rate_limit_exceeded", "requests"), RateLimitError),
        (429, openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), RateLimitError),
        (429, openai("too many tokens per minute"), RateLimitError),
        (400, openai("x", "context_length_exceeded"), ContextTooLongError),
        (400, openai("request (6008 tokens) exceeds", 400, "exceed_context_size_error"), ContextTooLongError),
        (400, openai("This model's maximum context length is 8192 tokens."), ContextTooLongError),
        (422, openai("Input is too long for requested model."), ContextTooLongError),
        (400, {"object": "error", "message": "the prompt is too long: 9 > 8", "code": 400}, ContextTooLongError),
        (400, {"error": "exceeds the model's context window"}, ContextTooLongError),
        (413, b"<html><title>413 Request Entity Too Large</title></html>", ContextTooLongError),
        (400, openai("max_tokens is too large: 100000. At most 16384 completion tokens."), BadRequestError),
        (400, openai("x", "content_filter"), ContentFilteredError),
        (400, openai("x", None, None, innererror={"code": "ResponsibleAIPolicyViolation"}), ContentFilteredError),
        (400, openai("x", "content_policy_violation"), ContentFilteredError),
        (404, openai("The model `x` does not exist", "model_not_found"), BadRequestError),
        (404, b"404 page not found", BadRequestError),
        (400, openai("Invalid type for 'temperature'"), BadRequestError),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "Input should be a number"}]}, BadRequestError),
        (405, b"", BadRequestError),
        (408, b"", ServiceUnavailableError),
        (409, b"", ServiceUnavailableError),
        (425, b"", ServiceUnavailableError),
        (407, b"", ServiceUnavailableError),
        (500, openai("The server had an error"), ServiceUnavailableError),
        (503, b"upstream connect error", ServiceUnavailableError),
        (529, openai("Overloaded", type="overloaded_error"), ServiceUnavailableError),
        (307, b"", BadRequestError),
    ],
)
def test_kinds(status: int, body: Any, kind: type[ServiceError]) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert error.status == status
    assert error.service == "openai"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, openai("No."), ["No.", "OPENAI_API_KEY or api_key="]),
        (404, openai("The model `x` does not exist"), ["`x`", "base_url", "https://gateway.example", "/v1"]),
        (422, {"detail": [{"msg": "one"}, {"msg": "two"}]}, ["one; two"]),
        (422, {"detail": {"message": "inner"}}, ["inner"]),
        (400, {"error": "just words"}, ["just words"]),
        (400, {"message": "flat"}, ["flat"]),
        (400, [openai("in a list")], ["in a list"]),
        (400, b'"a string"', ["a string"]),
        (502, b"<html><head><title>502 Bad Gateway</title></head></html>", ["a web page, '502 Bad Gateway'"]),
        (502, b"<html></html>", ["a web page"]),
        (503, b"plain text", ["plain text"]),
        (500, b"\xff\xfe", ["Try again later"]),
        (413, b"", ["Shorten the conversation"]),
        (429, openai("x", "insufficient_quota"), ["quota", "billing"]),
    ],
)
def test_words(status: int, body: Any, words: list[str]) -> None:
    error = error_of(status, body)
    for word in words:
        assert word in str(error)


def test_facts() -> None:
    error = error_of(429, openai("x", "rate_limit_exceeded"), {"x-request-id": "req_1", "retry-after": "7"})
    assert (error.request_id, error.service_code, error.retry_after) == ("req_1", "rate_limit_exceeded", 7)
    assert "request req_1" in str(error)
    assert error_of(400, b"", {"apim-request-id": "apim_1"}).request_id == "apim_1"
    assert error_of(400, openai("x", 400, "exceed_context_size_error")).service_code == "exceed_context_size_error"
    assert error_of(400, openai("x", 400)).service_code == "400"
    assert error_of(400, b"").service_code is None


def test_what_azures_filter_found() -> None:
    results = {
        "hate": {"filtered": False, "severity": "safe"},
        "violence": {"filtered": True, "severity": "high"},
        "jailbreak": {"filtered": False, "detected": True},
    }
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": results}
    error = error_of(400, openai("Triggered.", "content_filter", innererror=inner))
    assert "filtered: violence, jailbreak" in str(error)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://new.example/v1/chat/completions?key=canary", "https://new.example/v1/chat/completions"),
        ("https://user:canary@new.example/v1", "https://new.example/v1"),
        ("/v2/chat/completions", "/v2/chat/completions"),
        ("https://gateway.example/canary-path-0123456789/v1/", "https://gateway.example/***/v1/"),
        ("http://[canary", "malformed"),
        ("", "no address"),
    ],
)
def test_redirects_name_the_new_address(location: str, shown: str) -> None:
    error = error_of(308, b"", {"location": location})
    assert shown in str(error)
    assert "base_url" in str(error)
    assert "canary" not in str(error)


def test_no_key_is_shown_whatever_is_echoed() -> None:
    echoed = f"bad {KEY} / canary-header-0123456789 / canary-path-0123456789 / Bearer canary-other / sk-canary-2"
    for body in (openai(echoed, f"code-{KEY}", KEY), echoed.encode(), {"detail": [{"msg": echoed}]}, [echoed]):
        error = error_of(400, body, {"x-request-id": f"req-{KEY}"})
        assert "canary" not in f"{error} {error!r} {error.request_id} {error.service_code}"


def test_a_key_is_masked_before_it_is_cut() -> None:
    for padding in range(480, 500):
        assert "canary" not in str(error_of(400, openai("x" * padding + " " + KEY)))


def test_words_are_cut_to_size_and_cleaned() -> None:
    error = error_of(400, openai("\x1b[31mred\x07\r\n\u202ebackwards\u2028" + "y" * 5000))
    assert "red backwards" in str(error)
    assert len(str(error)) < 800
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        ({"message": "x", "code": 429}, RateLimitError, True),
        ({"message": "x", "code": "rate_limit_exceeded"}, RateLimitError, True),
        ({"message": "x", "code": "insufficient_quota"}, RateLimitError, False),
        ({"message": "x", "type": "overloaded_error"}, ServiceUnavailableError, True),
        ({"message": "x", "code": 502}, ServiceUnavailableError, True),
        ({"message": "x", "type": "invalid_request_error"}, BadRequestError, False),
        (
            {"message": "x", "code": "context_length_exceeded", "type": "invalid_request_error"},
            ContextTooLongError,
            False,
        ),
        ({"message": "x", "type": "authentication_error"}, AuthenticationError, False),
        ({"message": "x", "code": "content_filter"}, ContentFilteredError, False),
        ("just words", ServiceUnavailableError, True),
        (7, ServiceUnavailableError, True),
    ],
)
def test_errors_inside_an_answer(error: Any, kind: type[ServiceError], again: bool) -> None:
    fault = reported(ENDPOINT, 200, {}, error, 0)
    assert type(fault.error) is kind
    assert fault.again is again
    assert fault.error.status == 200


_NAMES = st.sampled_from(["error", "message", "code", "type", "detail", "innererror", "content_filter_result"])
any_json = st.recursive(
    st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(_NAMES, inner)
)


@given(st.integers(300, 599), st.binary(max_size=50) | any_json.map(lambda found: json.dumps(found).encode()))
def test_any_body_gives_an_error(status: int, body: bytes) -> None:
    assert str(error_of(status, body))
