"""AnthropicChatClient through real sockets: answers, streams that break, errors, retries, and what no error shows."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
from raw_server import Wire, http, request

from holdfast.cli.check_service import knocked
from holdfast.clients.anthropic import AnthropicChatClient
from holdfast.conversation.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContextTooLongError,
    RateLimitError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnavailableError,
)
from holdfast.conversation.messages import ReasoningContent, RefusalContent, TextContent, ToolCallContent
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer, Usage
from holdfast.ports.clients import ChatClient, ChatOptions
from holdfast.settings import client_from_environment
from holdfast.testing.anthropic_messages import (
    AnthropicStandIn,
    BrokenJSON,
    CallTools,
    CutStream,
    Fail,
    FailInStream,
    Hang,
    Refuse,
    Say,
    ToolCall,
)
from holdfast.testing.anthropic_messages import Usage as Tokens
from holdfast.testing.runtime import SeededRuntime

KEY = "sk-ant-canary-0123456789abcdef"
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_CHAT_MODEL_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def service() -> AsyncIterator[AnthropicStandIn]:
    async with AnthropicStandIn(api_key=KEY) as running:
        yield running


class Patient(SeededRuntime):
    """Remembers how long it was asked to sleep."""

    def __init__(self) -> None:
        super().__init__(1)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(seconds)


def client_of(service: AnthropicStandIn | Wire, **settings: Any) -> AnthropicChatClient:
    url = service.base_url.removesuffix("/v1")  # that of raw bytes ends so
    settings = {"runtime": Patient(), "api_key": KEY, **settings}
    return AnthropicChatClient("claude-test", base_url=url, **settings)


async def asked(client: Any, *, stream: bool = True, options: ChatOptions | None = None) -> Answer:
    """The answer to one question."""
    folded = Answer()
    async for batch in client.ask(request(client, stream=stream, options=options)):
        folded.add(batch)
    return folded


def message_of(folded: Answer) -> Any:
    return folded.message(lambda n: f"made-up-{n}")


async def said(client: Any, *, stream: bool = True) -> str:
    return str(message_of(await asked(client, stream=stream)).text)


async def broken(client: Any, *, stream: bool = True) -> tuple[str, ServiceError]:
    """What came before the error, and the error."""
    came: list[AgentRunResponseUpdate] = []

    async def read() -> None:
        async for batch in client.ask(request(client, stream=stream)):
            came.extend(batch)

    with pytest.raises(ServiceError) as caught:
        await read()
    return "".join(update.text for update in came), caught.value


def events(*payloads: dict[str, Any]) -> bytes:
    frames = [f"event: {payload['type']}\ndata: {json.dumps(payload)}\n\n" for payload in payloads]
    return http("".join(frames).encode(), kind="text/event-stream")


START = {"type": "message_start", "message": {"id": "m1", "type": "message", "role": "assistant", "model": "c"}}
STOP = {"type": "message_stop"}


def delta(text: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def ending(reason: str | None = "end_turn") -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 3}}


class TestAnswers:
    @both
    async def test_a_text(self, service: AnthropicStandIn, stream: bool) -> None:
        service.script(Say("Ahoy, matey! 🦜"))
        folded = await asked(client_of(service), stream=stream)
        assert message_of(folded).text == "Ahoy, matey! 🦜"
        assert (folded.model, folded.response_id, folded.finish_reason) == ("claude-test", "msg_000001", "stop")
        assert service.refused == []

    @both
    async def test_thoughts_and_calls(self, service: AnthropicStandIn, stream: bool) -> None:
        calls = [ToolCall("weather", {"city": "Oslo"}, "c1"), ToolCall("now", {}, "c2")]
        service.script(Say("Yes.", reasoning="Let me think."), CallTools(calls, text="Let me see."))
        folded = await asked(client_of(service), stream=stream)
        assert message_of(folded).contents == (ReasoningContent("Let me think."), TextContent("Yes."))
        folded = await asked(client_of(service), stream=stream)
        assert message_of(folded).contents == (
            TextContent("Let me see."),
            ToolCallContent("c1", "weather", '{"city":"Oslo"}'),
            ToolCallContent("c2", "now", "{}"),
        )
        assert folded.finish_reason == "tool_calls"

    @both
    async def test_the_service_declines(self, service: AnthropicStandIn, stream: bool) -> None:
        service.script(Refuse("Not that."))
        folded = await asked(client_of(service), stream=stream)
        assert message_of(folded).contents == (RefusalContent("Not that."),)
        assert folded.finish_reason == "content_filter"

    @both
    @pytest.mark.parametrize(
        ("word", "meaning"),
        [
            ("stop_sequence", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("pause_turn", "pause_turn"),
            ("something_new", "something_new"),
        ],
    )
    async def test_why_it_ended(self, service: AnthropicStandIn, stream: bool, word: str, meaning: str) -> None:
        service.script(Say("Hi", finish_reason=word))
        assert (await asked(client_of(service), stream=stream)).finish_reason == meaning

    @both
    async def test_usage_counts_the_cache_as_input(self, service: AnthropicStandIn, stream: bool) -> None:
        service.script(Say("Hi", usage=Tokens(100, 7, cached_tokens=60, cache_write_tokens=30, reasoning_tokens=2)))
        assert (await asked(client_of(service), stream=stream)).usage == Usage(100, 7, 107, 60, 30, 2)

    async def test_what_goes_over_the_wire(self, wire: Wire) -> None:
        wire.answers = [http({"type": "message", "content": [{"type": "text", "text": "Ahoy!"}]})]
        client = client_of(wire, default_headers={"X-Own": "mine"})
        assert await said(client, stream=False) == "Ahoy!"
        head = wire.heads[0].lower()
        assert head.startswith("post /v1/messages http/1.1\r\n")
        names = [line.partition(":")[0] for line in head.split("\r\n")[1:] if line]
        assert sorted(names) == [
            "accept", "accept-encoding", "anthropic-version", "content-length", "content-type", "host", "user-agent",
            "x-api-key", "x-own",
        ]  # fmt: skip
        assert f"x-api-key: {KEY}" in head
        assert "anthropic-version: 2026-10-21" in head
        assert wire.bodies[0] == (
            b'{"messages":[ {"role":"user","content":"Hello"}],"model":"claude-test","max_tokens":16000,'
            b'"cache_control":{"type":"ephemeral"}}'
        )

    async def test_what_is_new_is_passed_over(self, wire: Wire) -> None:
        wire.answers = [
            events(
                START,
                {"type": "weather_report", "delta": "cloudy"},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "hologram", "input": [1]}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "hologram_delta", "light": 3}},
                {"type": "content_block_stop", "index": 0},
                {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "Ahoy"}},
                delta("!", 1),
                {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": {}}},
                ending(),
                STOP,
                {"type": "error", "error": {"type": "api_error", "message": "after the end"}},
            )
        ]
        assert await said(client_of(wire)) == "Ahoy!"

    async def test_arguments_that_come_with_the_beginning(self, wire: Wire) -> None:
        block = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}
        wire.answers = [
            events(
                START,
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_stop", "index": 0},
                ending("tool_use"),
            )
        ]
        assert message_of(await asked(client_of(wire))).tool_calls == (ToolCallContent("c1", "f", '{"a": 1}'),)

    async def test_a_stream_that_ends_without_its_last_event(self, wire: Wire) -> None:
        wire.answers = [events(START, delta("Ahoy!"), ending())]
        assert await said(client_of(wire)) == "Ahoy!"

    async def test_a_whole_answer_without_a_reason(self, wire: Wire) -> None:
        wire.answers = [http({"content": [{"type": "text", "text": "Ahoy!"}], "usage": None})]
        folded = await asked(client_of(wire), stream=False)
        assert (message_of(folded).text, folded.finish_reason) == ("Ahoy!", "stop")

    async def test_an_answer_that_came_in_the_other_way(self, wire: Wire) -> None:
        wire.answers = [http({"content": [{"type": "text", "text": "whole"}]}), events(START, delta("streamed"), STOP)]
        client = client_of(wire)
        assert await said(client, stream=True) == "whole"
        assert await said(client, stream=False) == "streamed"

    async def test_a_call_that_was_cut_off_by_the_limit_was_never_made(self, service: AnthropicStandIn) -> None:
        service.script(CallTools([("f", '{"a": "unfinis')], text="Wait.", finish_reason="max_tokens"))
        folded = await asked(client_of(service))
        assert message_of(folded).contents == (TextContent("Wait."),)


class TestFaults:
    @both
    async def test_overloaded_and_then_not(self, service: AnthropicStandIn, stream: bool) -> None:
        service.script(Fail(529), Fail(429, headers={"retry-after": "3"}), "Ahoy!")
        client = client_of(service)
        assert await said(client, stream=stream) == "Ahoy!"
        first, second = client._runtime.slept  # type: ignore[attr-defined]
        assert 0 < first < 1
        assert second == 3
        assert len({record.body for record in service.requests}) == 1

    @both
    async def test_retries_end(self, service: AnthropicStandIn, stream: bool) -> None:
        service.script(*[Fail(529)] * 3)
        _, error = await broken(client_of(service), stream=stream)
        assert isinstance(error, ServiceUnavailableError)
        assert (error.status, error.service_code, error.request_id) == (529, "overloaded_error", "req_000003")
        assert "Overloaded" in str(error)

    async def test_a_service_that_says_not_to_try_again(self, service: AnthropicStandIn) -> None:
        service.script(Fail(500, headers={"x-should-retry": "false"}))
        await broken(client_of(service))
        assert len(service.requests) == 1

    @pytest.mark.parametrize("after", [0, 1, 2], ids=["before anything", "after the start", "after a ping"])
    async def test_a_connection_that_breaks_before_words_is_tried_again(
        self, service: AnthropicStandIn, after: int
    ) -> None:
        service.script(CutStream(after=after), "Ahoy!")
        client = client_of(service)
        if after == 0:
            assert await said(client) == "Ahoy!"
        else:  # who answers was handed on
            _, error = await broken(client)
            assert isinstance(error, ServiceUnavailableError)

    @pytest.mark.parametrize("how", ["close", "clean"])
    async def test_a_stream_that_is_cut_keeps_what_came(self, service: AnthropicStandIn, how: Any) -> None:
        service.script(CutStream(after=5, how=how, answer=Say(pieces=["Ahoy", ", ", "matey"])))
        came, error = await broken(client_of(service))
        assert came == "Ahoy, "
        assert isinstance(error, ServiceUnavailableError)
        assert "cut off" in str(error)
        assert len(service.requests) == 1

    async def test_an_error_in_the_middle_of_a_stream_keeps_what_came(self, service: AnthropicStandIn) -> None:
        service.script(FailInStream(after=4, answer=Say(pieces=["Ahoy", "matey"])))
        came, error = await broken(client_of(service))
        assert came == "Ahoy"
        assert isinstance(error, ServiceUnavailableError)
        assert (error.service_code, error.status) == ("overloaded_error", 200)

    async def test_an_error_as_the_first_event_is_tried_again(self, service: AnthropicStandIn) -> None:
        service.script(FailInStream(after=0), "Ahoy!")
        assert await said(client_of(service)) == "Ahoy!"

    async def test_a_service_that_falls_silent(self, service: AnthropicStandIn) -> None:
        service.script(Hang(after=4, answer=Say(pieces=["Ahoy", "matey"])))
        came, error = await broken(client_of(service, read_timeout=0.2))
        assert came == "Ahoy"
        assert isinstance(error, ServiceUnavailableError)

    @both
    async def test_broken_json(self, service: AnthropicStandIn, stream: bool) -> None:
        service.script(BrokenJSON(after=4, answer=Say(pieces=["Ahoy", "matey"])))
        came, error = await broken(client_of(service), stream=stream)
        assert came == ("Ahoy" if stream else "")
        assert isinstance(error, ServiceProtocolError)
        assert "no JSON" in str(error)

    @pytest.mark.parametrize("body", [b"{}", b"[]", b'{"type":"completion"}', b"<html>Hi</html>", b""])
    async def test_what_is_no_message(self, wire: Wire, body: bytes) -> None:
        wire.answers = [http(body)]
        _, error = await broken(client_of(wire), stream=False)
        assert isinstance(error, ServiceProtocolError)
        assert "ANTHROPIC" not in str(error)
        assert "base_url" in str(error)

    async def test_an_error_where_an_answer_should_be(self, wire: Wire) -> None:
        wire.answers = [http({"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}})]
        _, error = await broken(client_of(wire, max_retries=0), stream=False)
        assert isinstance(error, RateLimitError)


class TestErrors:
    @pytest.mark.parametrize(
        ("fail", "kind", "tries"),
        [
            (Fail(400), BadRequestError, 1),
            (Fail(400, message="prompt is too long: 213462 tokens > 200000 maximum"), ContextTooLongError, 1),
            (
                Fail(
                    400, message="input length and `max_tokens` exceed context limit: 190000 + 16000 > 200000, decrease"
                ),
                ContextTooLongError,
                1,
            ),
            (Fail(400, message="Your credit balance is too low to access the Anthropic API."), RateLimitError, 1),
            (Fail(401), AuthenticationError, 1),
            (Fail(402), RateLimitError, 1),
            (Fail(403), AuthenticationError, 1),
            (Fail(404), BadRequestError, 1),
            (Fail(409), ServiceUnavailableError, 2),
            (Fail(413), ContextTooLongError, 1),
            (Fail(429), RateLimitError, 2),
            (Fail(500), ServiceUnavailableError, 2),
            (Fail(504), ServiceUnavailableError, 2),
            (Fail(529), ServiceUnavailableError, 2),
            (Fail(418, type="teapot_error"), BadRequestError, 1),
            (Fail(502, body="<html><title>Bad Gateway</title></html>"), ServiceUnavailableError, 2),
            (Fail(400, body="No."), BadRequestError, 1),
        ],
    )
    async def test_what_each_refusal_becomes(
        self, service: AnthropicStandIn, fail: Fail, kind: type[ServiceError], tries: int
    ) -> None:
        service.script(fail, fail)
        _, error = await broken(client_of(service, max_retries=1))
        assert type(error) is kind
        assert len(service.requests) == tries
        assert error.status == fail.status
        assert error.request_id
        assert error.service == "anthropic"

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("invalid_request_error", BadRequestError),
            ("authentication_error", AuthenticationError),
            ("rate_limit_error", RateLimitError),
            ("api_error", ServiceUnavailableError),
            ("something_new", ServiceUnavailableError),
        ],
    )
    async def test_what_each_error_in_a_stream_becomes(
        self, service: AnthropicStandIn, kind: str, expected: type[ServiceError]
    ) -> None:
        service.script(FailInStream(after=4, type=kind))
        _, error = await broken(client_of(service))
        assert type(error) is expected
        assert error.service_code == kind

    @pytest.mark.parametrize("odd", ["overloaded", {"message": "no type"}, ["a", "list"], 5])
    async def test_an_error_of_another_form_in_a_stream(self, wire: Wire, odd: Any) -> None:
        wire.answers = [events(START, delta("Ahoy"), {"type": "error", "error": odd})]
        came, error = await broken(client_of(wire))
        assert came == "Ahoy"
        assert isinstance(error, ServiceUnavailableError)

    async def test_the_wrong_key(self, service: AnthropicStandIn) -> None:
        _, error = await broken(client_of(service, api_key="sk-ant-wrong-key-1234"))
        assert isinstance(error, AuthenticationError)
        assert "ANTHROPIC_API_KEY" in str(error)

    async def test_a_redirect_is_not_followed(self, wire: Wire) -> None:
        wire.answers = [http(b"", 302, headers={"Location": "https://elsewhere.example/x?secret=1"})]
        _, error = await broken(client_of(wire))
        assert "elsewhere.example" in str(error)
        assert "secret" not in str(error)

    async def test_no_error_and_no_log_shows_the_key(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        key = "canary-without-the-form-of-a-key"
        echoed = f"Bad key {key} and tok-canary-12345, also sk-ant-somebody-elses"
        async with AnthropicStandIn(api_key=key) as service:
            client = client_of(service, api_key=key, default_headers={"X-Token": "tok-canary-12345"})
            service.script(
                Fail(401, message=echoed), FailInStream(after=0, message=echoed, type="authentication_error")
            )
            told = [repr(client), repr(vars(client))]
            for _ in range(2):
                _, error = await broken(client)
                told += [str(error), repr(error), *traceback.format_exception(error)]
            assert service.refused == []
        whole = "\n".join([*told, caplog.text])
        assert "***" in whole
        assert "canary" not in whole
        assert "elses" not in whole


class TestSettings:
    def test_it_keeps_the_port(self) -> None:
        client: ChatClient = AnthropicChatClient("m", api_key="k")
        assert (client.service, client.keeps_history) == ("anthropic", False)
        assert repr(client) == "AnthropicChatClient('m', at https://api.anthropic.com)"

    def test_they_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9/gate/")
        monkeypatch.setenv("ANTHROPIC_CHAT_MODEL_ID", "claude-env")
        client = AnthropicChatClient()
        assert client.model == "claude-env"
        assert client._endpoint.url == "http://127.0.0.1:9/gate/v1/messages"

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({}, "ANTHROPIC_API_KEY"),
            ({"base_url": "http://api.anthropic.com", "api_key": KEY}, "https://"),
            ({"base_url": "https://h.example/v1", "api_key": KEY}, "added by itself"),
            ({"base_url": "https://h.example/v1/messages", "api_key": KEY}, "added by itself"),
            ({"base_url": "h.example", "api_key": KEY}, "begin with"),
            ({"api_key": "with space"}, "position 4"),
            ({"api_key": KEY, "version": "2020-01-01"}, "version"),
            ({"api_key": KEY, "cache": "9h"}, "cache"),
            ({"api_key": KEY, "max_retries": -1}, "max_retries"),
            ({"api_key": KEY, "read_timeout": 0}, "read_timeout"),
        ],
    )
    def test_what_is_missing_or_malformed_is_said(self, settings: Any, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words) as caught:
            AnthropicChatClient("m", **settings)
        assert "canary" not in str(caught.value)

    def test_the_environment_chooses_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        client = client_from_environment(model="claude-x")
        assert isinstance(client, AnthropicChatClient)
        assert client.model == "claude-x"
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
        assert client_from_environment(model="gpt-x").service == "openai"
        monkeypatch.setenv("OPENAI_API_KEY", "")
        assert client_from_environment(model="claude-x").service == "anthropic"

    def test_the_doctor_knocks_without_asking_a_model(self) -> None:
        with AnthropicStandIn(api_key=KEY) as service:
            for key, state in ((KEY, "ok"), ("sk-ant-wrong-key-1", "problem")):
                assert knocked(AnthropicChatClient("m", base_url=service.base_url, api_key=key), 10).state == state
            assert len(service.refused) == 2

    def test_another_way_to_be_let_in(self) -> None:
        client = AnthropicChatClient("m", default_headers={"Authorization": "Bearer token-of-somebody"})
        assert "x-api-key" not in {name.lower() for name in dict(client._endpoint.headers)}  # type: ignore[call-overload]

    def test_a_server_of_ones_own_needs_no_key(self) -> None:
        assert AnthropicChatClient("m", base_url="http://127.0.0.1:9").address == "http://127.0.0.1:9"

    def test_importing_and_making_it_brings_no_http_library_in(self) -> None:
        code = "import sys, holdfast; holdfast.AnthropicChatClient('m', api_key='k'); print('aiohttp' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    async def test_it_can_be_closed_and_used_again(self, service: AnthropicStandIn) -> None:
        async with client_of(service) as client:
            assert await said(client)
        assert await said(client)
