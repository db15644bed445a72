"""AnthropicChatClient: Anthropic's Messages, at Anthropic or at any server that speaks the dialect.

Rule of this file: it puts the parts together. What is sent is `anthropic_codec`'s, what comes back
`anthropic_decoder`'s, the address `anthropic_endpoints`', the errors `anthropic_errors`', the sending `asking`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.clients import anthropic_errors
from holdfast.clients.anthropic_codec import AnthropicCodec
from holdfast.clients.anthropic_decoder import AnthropicDecoder
from holdfast.clients.anthropic_endpoints import NEWEST, anthropic_endpoint, anthropic_model
from holdfast.clients.asking import AskingClient, Decoder, Patience
from holdfast.clients.endpoints import Endpoint
from holdfast.clients.environment import environment
from holdfast.clients.retries import Fault
from holdfast.ports.runtime import SYSTEM, Runtime


class _Dialect:
    """How this service's answers are read."""

    answers = "a message"

    def decoder(self) -> Decoder:
        return AnthropicDecoder()

    def refused(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes, now_us: int) -> Fault:
        return anthropic_errors.refused(endpoint, status, headers, body, now_us)

    def reported(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], error: Any, now_us: int) -> Fault:
        return anthropic_errors.reported(endpoint, status, headers, error, now_us)

    def request_id(self, endpoint: Endpoint, headers: Mapping[str, str]) -> str | None:
        return anthropic_errors.request_id(endpoint, headers)


class AnthropicChatClient(AskingClient):
    """A chat client for Anthropic's Messages.

        client = AnthropicChatClient("claude-opus-5-5")     # with ANTHROPIC_API_KEY from the environment

    `model`, `base_url` and `api_key` come from ANTHROPIC_CHAT_MODEL_ID, ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY where
    they are not given: from the environment, else from a `.env` file in the current directory (see
    `holdfast.clients.environment`). `base_url` is what comes before /v1/messages.

    `max_tokens` is the longest answer, thoughts included, where a run asks for no other: this service wants to be told
    one. `cache` is how long it keeps what it has read of a conversation, so that the next turn costs what is new: "5m",
    "1h", or None for not at all. `version` is that of the interface; "2023-06-01" still knows temperature and top_p,
    for the models that do. The rest is as for OpenAIChatClient.
    Raises ConfigurationError for what is missing or malformed.
    """

    dialect = _Dialect()

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_tokens: int = 16_000,
        cache: str | None = "5m",
        version: str = NEWEST,
        max_retries: int = 2,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        default_headers: Mapping[str, str] | None = None,
        runtime: Runtime = SYSTEM,
    ) -> None:
        known = environment()
        endpoint = anthropic_endpoint(
            base_url=base_url, api_key=api_key, version=version, default_headers=default_headers, environ=known
        )
        model = anthropic_model(model, known)
        codec = AnthropicCodec(model, max_tokens=max_tokens, cache=cache, version=version)
        super().__init__(endpoint, model, codec, Patience(max_retries, connect_timeout, read_timeout), runtime)
