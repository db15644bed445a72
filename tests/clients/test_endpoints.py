"""Endpoints: addresses and keys are checked early, and keys are shown to nobody."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from holdfast.clients.endpoints import OPENAI_URL, Endpoint, Secret, is_openai, openai_endpoint, openai_model
from holdfast.clients.proxies import proxy_for
from holdfast.conversation.errors import ConfigurationError

KEY = "sk-canary-0123456789abcdef"
LOCAL = "http://localhost:8080/v1"


def headers_of(endpoint: Endpoint) -> dict[str, str]:
    assert isinstance(endpoint.headers, Mapping)
    return {name: secret.reveal() for name, secret in endpoint.headers.items()}


def test_all_from_the_environment() -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://proxy.example/v1/", "OPENAI_ORG_ID": "org-1"}
    endpoint = openai_endpoint(environ=environ)
    assert endpoint.url == "https://proxy.example/v1/chat/completions"
    assert endpoint.origin == "https://proxy.example"
    found = headers_of(endpoint)
    assert found["Authorization"] == f"Bearer {KEY}"
    assert found["OpenAI-Organization"] == "org-1"
    assert found["User-Agent"].startswith("holdfast/")


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_CHAT_MODEL_ID", "gpt-env")
    assert openai_endpoint().url == f"{OPENAI_URL}/chat/completions"
    assert openai_model(None) == "gpt-env"
    assert openai_model("given") == "given"
    assert openai_model(None, {}) is None


def test_arguments_win() -> None:
    environ = {"OPENAI_API_KEY": "sk-other", "OPENAI_BASE_URL": "https://other.example", "OPENAI_ORG_ID": "org-other"}
    endpoint = openai_endpoint(base_url=LOCAL, api_key=KEY, organization="org-1", environ=environ)
    assert endpoint.url.startswith(LOCAL)
    assert headers_of(endpoint)["Authorization"] == f"Bearer {KEY}"
    assert headers_of(endpoint)["OpenAI-Organization"] == "org-1"


def test_a_key_is_needed_for_openai_only() -> None:
    assert "Authorization" not in headers_of(openai_endpoint(base_url=LOCAL, environ={}))
    assert "Authorization" not in headers_of(openai_endpoint(base_url=LOCAL, api_key="", environ={}))
    for environ in ({}, {"OPENAI_API_KEY": ""}, {"OPENAI_BASE_URL": "https://eu.api.openai.com/v1"}):
        with pytest.raises(ConfigurationError, match=r"OPENAI_API_KEY.*api_key="):
            openai_endpoint(environ=environ)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://user:canary-password@host/v1", "user name or password"),
        ("https://canary@host/v1", "user name or password"),
        ("ftp://host/canary", "https:// or http://"),
        ("api.openai.com/v1", "https:// or http://"),
        ("https:///v1", "names no host"),
        ("https://host/v1?key=canary", "a query or a fragment"),
        ("https://host/v1?", "a query or a fragment"),
        ("https://host/v1#canary", "a query or a fragment"),
        ("https://host/v1\nX-Evil: canary", "control characters"),
        ("https://host/v 1", "spaces"),
        ("https://hôst/v1", "outside ASCII"),
        ("https://host:canary/v1", "malformed"),
        ("https://host:99999/v1", "malformed"),
        ("https://[host/v1", "malformed"),
        ("https://host/v1/chat/completions", "leave it out"),
        ("http://api.openai.com/v1", "would show the key"),
    ],
)
def test_addresses_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        openai_endpoint(base_url=url, api_key=KEY, environ={})
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None
    with pytest.raises(ConfigurationError, match=words):
        openai_endpoint(environ={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY})


@pytest.mark.parametrize("url", [LOCAL, "http://127.0.0.1:1/", "https://h", "http://[::1]:8000/v1", "HTTPS://Host/V1"])
def test_addresses_that_are_taken(url: str) -> None:
    assert openai_endpoint(base_url=url, environ={}).url == url.rstrip("/") + "/chat/completions"


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\nX-Evil: 1", f"{KEY}\0", f"“{KEY}”", f"{KEY}\x7f"])
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"strip") as caught:
        openai_endpoint(api_key=key, environ={})
    assert "canary" not in str(caught.value)


def test_a_credential_in_a_header_of_ones_own_stands_for_the_key() -> None:
    endpoint = openai_endpoint(default_headers={"authorization": "Custom token"}, environ={})
    assert headers_of(endpoint)["authorization"] == "Custom token"


def test_a_key_that_is_no_string() -> None:
    with pytest.raises(ConfigurationError, match="int"):
        openai_endpoint(api_key=7, environ={})  # type: ignore[arg-type]


def test_headers_of_ones_own() -> None:
    given = {"X-Tenant": "t1", "authorization": "Custom canary-token", "user-agent": "mine"}
    found = headers_of(openai_endpoint(base_url=LOCAL, api_key=KEY, default_headers=given, environ={}))
    assert {name: found[name] for name in given} == given
    assert not {"Authorization", "User-Agent"} & set(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-A", "canary\r\nX-Evil: 1"), ("X-A", "canary\0"), ("X A", "canary"), ("", "canary"), ("Content-Length", "1")],
)
def test_headers_that_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        openai_endpoint(base_url=LOCAL, default_headers={name: value}, environ={})
    assert "canary" not in str(caught.value)


def test_nothing_shows_a_secret() -> None:
    endpoint = openai_endpoint(
        base_url="https://gateway.example/canary-path-0123456789/v1",
        api_key=KEY,
        default_headers={"X-Token": "Basic canary-header-0123456789"},
        environ={},
    )
    for shown in (repr(endpoint.headers), repr(endpoint.secrets), str(Secret("canary")), f"{Secret('canary')}"):
        assert "canary" not in shown
    for shown in (repr(endpoint), repr(list(endpoint.__rich_repr__()))):
        assert KEY not in shown
        assert "canary-header" not in shown
    echoed = f"no: {KEY}; Basic canary-header-0123456789; canary-header-0123456789; /canary-path-0123456789/v1"
    assert "canary" not in endpoint.masked(echoed)


@pytest.mark.parametrize("text", ["sk-proj-abcDEF_123", "Incorrect: sk-1234****5678.", "Authorization: Bearer abc.def"])
def test_whatever_looks_like_a_key_is_masked(text: str) -> None:
    masked = openai_endpoint(base_url=LOCAL, environ={}).masked(text)
    assert "***" in masked
    assert not {"abc", "1234"} & set(masked.replace("*", " ").split())
    assert "abc" not in masked


def test_short_words_are_no_secrets() -> None:
    endpoint = openai_endpoint(base_url=LOCAL, api_key="x", environ={})
    assert endpoint.masked("an example") == "an example"


def test_an_endpoint_survives_pickling() -> None:
    endpoint = openai_endpoint(base_url=LOCAL, api_key=KEY, environ={})
    again = pickle.loads(pickle.dumps(endpoint))
    assert headers_of(again) == headers_of(endpoint)


def test_openais_own_hosts() -> None:
    assert is_openai("https://api.openai.com/v1")
    assert is_openai("https://eu.api.openai.com/v1")
    assert not is_openai("https://api.openai.com.evil.example/v1")
    assert not is_openai(LOCAL)


class TestProxies:
    def test_none(self) -> None:
        assert proxy_for("https://api.example/v1") is None

    def test_by_scheme(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "http://one.example:3128")
        monkeypatch.setenv("HTTP_PROXY", "two.example:3128")
        assert proxy_for("https://api.example/v1") == "http://one.example:3128"
        assert proxy_for("http://api.example/v1") == "http://two.example:3128"

    def test_for_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", "http://one.example:3128")
        assert proxy_for("https://api.example/v1") == "http://one.example:3128"

    def test_exceptions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://one.example:3128")
        monkeypatch.setenv("NO_PROXY", "localhost,.inner.example,other.example:8443")
        assert proxy_for("https://localhost:8080/v1") is None
        assert proxy_for("https://a.inner.example/v1") is None
        assert proxy_for("https://other.example:8443/v1") is None
        assert proxy_for("https://other.example/v1") is not None

    @pytest.mark.parametrize("proxy", ["socks5://u:canary@host:1080", "http://u:canary@host:port", "http://"])
    def test_those_that_cannot_be_used(self, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(ConfigurationError, match="NO_PROXY") as caught:
            proxy_for("https://api.example/v1")
        assert "canary" not in str(caught.value)
