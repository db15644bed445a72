"""OpenAIChatClient: Chat Completions, at OpenAI or at any server that speaks its dialect.

Rule of this file: it puts the parts together. What is sent and what comes back is the codec's, the sending and reading
`asking`'s. A service with the same wire and another way to its address and credential is another subclass of
`ChatCompletionsClient`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.clients import openai_errors
from holdfast.clients.asking import AskingClient, Decoder, Patience
from holdfast.clients.endpoints import Endpoint, is_openai, openai_endpoint, openai_model
from holdfast.clients.environment import environment
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec, ChatCompletionsDecoder
from holdfast.clients.retries import Fault
from holdfast.ports.runtime import SYSTEM, Runtime


class _Dialect:
    """How the answers of Chat Completions are read."""

    answers = "a chat completion"

    def decoder(self) -> Decoder:
        return ChatCompletionsDecoder()

    def refused(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes, now_us: int) -> Fault:
        return openai_errors.refused(endpoint, status, headers, body, now_us)

    def reported(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], error: Any, now_us: int) -> Fault:
        return openai_errors.reported(endpoint, status, headers, error, now_us)

    def request_id(self, endpoint: Endpoint, headers: Mapping[str, str]) -> str | None:
        return openai_errors.request_id(endpoint, headers)


class ChatCompletionsClient(AskingClient):
    """What the clients for Chat Completions share. Only its subclasses are made."""

    dialect = _Dialect()

    def __init__(
        self,
        endpoint: Endpoint,
        model: str | None,
        codec: ChatCompletionsCodec,
        *,
        max_retries: int,
        connect_timeout: float,
        read_timeout: float,
        runtime: Runtime,
    ) -> None:
        super().__init__(endpoint, model, codec, Patience(max_retries, connect_timeout, read_timeout), runtime)


class OpenAIChatClient(ChatCompletionsClient):
    """A chat client for Chat Completions.

        client = OpenAIChatClient("gpt-4o-mini")     # with OPENAI_API_KEY from the environment
        client = OpenAIChatClient("llama3", base_url="http://localhost:11434/v1")

    `model`, `base_url`, `api_key` and `organization` come from OPENAI_CHAT_MODEL_ID, OPENAI_BASE_URL, OPENAI_API_KEY
    and OPENAI_ORG_ID where they are not given: from the environment, else from a `.env` file in the current directory
    (see `holdfast.clients.environment`). `read_timeout` is how long the service may say nothing; there is no limit on
    a whole answer. `max_tokens_field` names the option for the length of answers: OpenAI's name at OpenAI, the older
    "max_tokens" elsewhere. It may be used from any event loop and thread, and need not be closed.
    Raises ConfigurationError for what is missing or malformed.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        max_retries: int = 2,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        instruction_role: str = "system",
        max_tokens_field: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        include_usage: bool = True,
        runtime: Runtime = SYSTEM,
    ) -> None:
        known = environment()
        endpoint = openai_endpoint(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            default_headers=default_headers,
            environ=known,
        )
        model = openai_model(model, known)
        usual = "max_completion_tokens" if is_openai(endpoint.url) else "max_tokens"
        codec = ChatCompletionsCodec(
            model,
            instruction_role=instruction_role,
            max_tokens_field=max_tokens_field or usual,
            include_usage=include_usage,
        )
        super().__init__(
            endpoint,
            model,
            codec,
            max_retries=max_retries,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            runtime=runtime,
        )
