"""OpenAIChatClient through real sockets: answers, sloppy servers, errors, retries, and who closes what when."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from raw_server import GOOD, Hangup, Wire, answer, asked, delta, http, request, said, sse, until_it_fails

from holdfast.clients.openai_chat import OpenAIChatClient
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
from holdfast.conversation.messages import ToolCallContent
from holdfast.conversation.updates import Answer, FinishUpdate
from holdfast.ports.clients import ChatClient, ChatOptions
from holdfast.testing.openai_chat import (
    BrokenJSON,
    CallTools,
    ChatCompletionsStandIn,
    CutStream,
    Fail,
    FailInStream,
    Hang,
    Refuse,
    Say,
)
from holdfast.testing.openai_chat_answers import Sloppy, ToolCall
from holdfast.testing.runtime import SeededRuntime

KEY = "sk-canary-0123456789abcdef"
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture
async def service() -> AsyncIterator[ChatCompletionsStandIn]:
    async with ChatCompletionsStandIn() as running:
        yield running


class Patient(SeededRuntime):
    """Remembers how long it was asked to sleep."""

    def __init__(self) -> None:
        super().__init__(1)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(seconds)


def client_of(service: ChatCompletionsStandIn | Wire, **settings: Any) -> OpenAIChatClient:
    settings = {"runtime": Patient(), "api_key": KEY, **settings}
    return OpenAIChatClient("gpt-test", base_url=service.base_url, **settings)


async def message_of(client: OpenAIChatClient, *, stream: bool) -> Any:
    folded = Answer()
    folded.add(await asked(client, stream=stream))
    return folded.message(lambda n: f"made-up-{n}")


class TestAnswers:
    @both
    async def test_a_text(self, service: ChatCompletionsStandIn, stream: bool) -> None:
        service.script(Say("Ahoy, matey! 🦜"))
        updates = await asked(client_of(service), stream=stream)
        assert updates[0] == FinishUpdate(model="gpt-test", response_id="chatcmpl-000001")
        assert "".join(update.text for update in updates) == "Ahoy, matey! 🦜"
        folded = Answer()
        folded.add(updates)
        assert folded.finish_reason == "stop"
        assert folded.usage is not None
        assert folded.usage.total_tokens > 0
        assert service.refused == []

    @both
    async def test_tools_and_refusals(self, service: ChatCompletionsStandIn, stream: bool) -> None:
        service.script(CallTools([ToolCall("weather", {"city": "Oslo"}, "c1")], text="Let me see."), Refuse("No."))
        message = await message_of(client_of(service), stream=stream)
        assert message.text == "Let me see."
        assert message.tool_calls == (ToolCallContent("c1", "weather", '{"city":"Oslo"}'),)
        message = await message_of(client_of(service), stream=stream)
        assert message.contents[0].text == "No."

    async def test_what_goes_over_the_wire(self, wire: Wire) -> None:
        wire.answers = [GOOD]
        client = client_of(wire, organization="org-1", default_headers={"X-Own": "mine"})
        assert await said(client) == "Ahoy!"
        head = wire.heads[0].lower()
        assert head.startswith("post /v1/chat/completions http/1.1\r\n")
        names = [line.partition(":")[0] for line in head.split("\r\n")[1:] if line]
        assert sorted(names) == [
            "accept", "accept-encoding", "authorization", "content-length", "content-type", "host",
            "openai-organization", "user-agent", "x-own",
        ]  # fmt: skip
        assert f"authorization: bearer {KEY}" in head
        assert "user-agent: holdfast/" in head
        assert wire.bodies[0] == b'{"messages":[{"role":"user","content":"Hello"}],"model":"gpt-test"}'

    async def test_how_the_length_of_an_answer_is_called(self, service: ChatCompletionsStandIn) -> None:
        own_word: dict[str, Any] = {"max_tokens_field": "max_completion_tokens"}
        for settings, field in (({}, "max_tokens"), (own_word, "max_completion_tokens")):
            client = client_of(service, **settings)
            async for _ in client.ask(request(client, options=ChatOptions(max_tokens=7))):
                pass
            assert service.last.json[field] == 7
        hosted = OpenAIChatClient("m", api_key=KEY)
        assert b'"max_completion_tokens":7' in hosted.codec.tail(ChatOptions(max_tokens=7), stream=False)

    async def test_compressed_answers_are_read(self, wire: Wire) -> None:
        import gzip

        wire.answers = [
            http(gzip.compress(http(answer()).partition(b"\r\n\r\n")[2]), headers={"Content-Encoding": "gzip"})
        ]
        assert await said(client_of(wire)) == "Ahoy!"

    async def test_a_connection_is_used_again(self, wire: Wire) -> None:
        wire.answers = [GOOD, sse(delta("a"), delta(None, "stop"), "[DONE]"), GOOD]
        client = client_of(wire)
        assert [await said(client), await said(client, stream=True), await said(client)] == ["Ahoy!", "a", "Ahoy!"]
        assert wire.connections == 1

    async def test_batches_are_what_was_read(self, wire: Wire) -> None:
        wire.answers = [sse(delta(), *[delta(f"{n} ") for n in range(1000)], delta(None, "stop"), "[DONE]")]
        client = client_of(wire)
        batches = [batch async for batch in client.ask(request(client, stream=True))]
        assert sum(len(batch) for batch in batches) == 1002
        assert len(batches) <= 5

    async def test_many_at_once(self, service: ChatCompletionsStandIn) -> None:
        client = client_of(service)
        texts = await asyncio.gather(*[said(client, f"n{n}", stream=n % 2 == 0) for n in range(150)])
        assert [text.split()[2] for text in texts] == [f"n{n}" for n in range(150)]


class TestSloppyServers:
    @pytest.mark.parametrize("sloppy", get_args(Sloppy))
    @both
    async def test_each_on_its_own(self, service: ChatCompletionsStandIn, sloppy: Any, stream: bool) -> None:
        client = client_of(service)
        calls = [ToolCall("f", {"a": 1}, "c1"), ToolCall("f", {"b": 2}, "c2")]
        service.script(Say("Ahoy, matey! 🦜", sloppy=sloppy), CallTools(calls, sloppy=sloppy))
        assert (await message_of(client, stream=stream)).text == "Ahoy, matey! 🦜"
        message = await message_of(client, stream=stream)
        assert [(call.call_id, call.arguments) for call in message.tool_calls] == [("c1", '{"a":1}'), ("c2", '{"b":2}')]
        assert service.refused == []

    async def test_done_but_the_connection_stays_open(self, wire: Wire) -> None:
        body = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.answers = [head + b"%x\r\n%s\r\n" % (len(body), body)]
        async with asyncio.timeout(5):
            assert await said(client_of(wire), stream=True) == "a"
            await wire.closed.wait()

    @pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "application/json", "text/plain", ""])
    async def test_the_content_type_may_be_wrong(self, wire: Wire, kind: str) -> None:
        stream = sse(delta("Ahoy!"), delta(None, "stop"), "[DONE]").partition(b"\r\n\r\n")[2]
        whole = http(answer()).partition(b"\r\n\r\n")[2]
        wire.answers = [
            http(stream, kind=kind),
            http(b"\n\n \n" + whole, kind=kind),
            http(b"\xef\xbb\xbf" + whole, kind=kind),
        ]
        client = client_of(wire)
        for streamed in (True, False, False):
            assert await said(client, stream=streamed) == "Ahoy!"

    async def test_a_stream_without_an_end_of_its_own(self, wire: Wire) -> None:
        """HTTP/1.0: the end of the connection is the end of the answer."""
        head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        events = sse(delta("a"), delta("b", "stop")).partition(b"\r\n\r\n")[2]
        wire.answers = [Hangup(head + events.removesuffix(b"\n\n"))]
        assert await said(client_of(wire), stream=True) == "ab"

    async def test_a_cut_after_the_reason_is_no_cut(self, wire: Wire) -> None:
        events = sse(delta("a", "stop"))
        wire.answers = [Hangup(events.replace(b"Content-Length: ", b"Content-Length: 9"))]
        assert await said(client_of(wire), stream=True) == "a"


class TestWhatIsNoAnswer:
    @pytest.mark.parametrize(
        ("played", "words"),
        [
            (http(b"<!doctype html><title>Hi</title>", kind="text/html; charset=utf-8"), ["a web page", "text/html"]),
            (http(b"<html>", kind="text/event-stream"), ["no JSON"]),
            (http(b"", kind="application/json"), ["an empty body", "application/json"]),
            (http(b"", kind="text/event-stream"), ["an empty body", "text/event-stream"]),
            (http(b"", kind=""), ["an empty body", "content type: none"]),
            (http(b"OK", kind="text/plain"), ["no JSON", "text/plain"]),
            (http({"status": "ok"}), ["without a message"]),
            (http({"choices": []}), ["without a message"]),
            (sse("[DONE]"), ["without a message"]),
            (sse("nonsense"), ["no JSON"]),
        ],
    )
    @both
    async def test_it_says_what_came_and_to_check_the_address(
        self, wire: Wire, played: bytes, words: list[str], stream: bool
    ) -> None:
        wire.answers = [played]
        with pytest.raises(ServiceProtocolError) as caught:
            await asked(client_of(wire), stream=stream)
        for word in [*words, "base_url", f"http://127.0.0.1:{wire.port}"]:
            assert word in str(caught.value)
        assert len(wire.heads) == 1  # it is not tried again

    async def test_an_event_without_end(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        wire.answers = [sse(delta("a"), "x" * (17 * 1024 * 1024))]
        with pytest.raises(ServiceProtocolError, match="too long"):
            await asked(client_of(wire), stream=True)

    async def test_an_answer_without_end(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("holdfast.clients.asking._LONGEST_ANSWER", 1_000_000)
        wire.answers = [http(b"{" + b" " * 2_000_000)]
        with pytest.raises(ServiceProtocolError, match="too long"):
            await asked(client_of(wire))

    @pytest.mark.parametrize(
        "garbage", [b"\x15\x03\x01\x00\x02\x02\x16", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n"]
    )
    async def test_no_http(self, wire: Wire, garbage: bytes) -> None:
        wire.answers = [Hangup(garbage)]
        with pytest.raises(ServiceProtocolError, match=r"not HTTP.*https://"):
            await asked(client_of(wire))


class TestErrors:
    @both
    @pytest.mark.parametrize(
        ("fail", "kind"),
        [
            (Fail(401), AuthenticationError),
            (Fail(404), BadRequestError),
            (Fail(400), BadRequestError),
            (Fail(400, code="context_length_exceeded"), ContextTooLongError),
            (Fail(429, code="insufficient_quota"), RateLimitError),
        ],
    )
    async def test_what_is_not_tried_again(
        self, service: ChatCompletionsStandIn, fail: Fail, kind: type[ServiceError], stream: bool
    ) -> None:
        service.script(fail)
        with pytest.raises(kind) as caught:
            await asked(client_of(service), stream=stream)
        assert caught.value.status == fail.status
        assert caught.value.request_id == "req_000001"
        assert caught.value.service == "openai"
        assert len(service.requests) == 1

    async def test_the_stand_ins_own_refusals(self) -> None:
        async with ChatCompletionsStandIn(api_key="right-key-0123456789", models=["m"], context_limit=50) as service:
            with pytest.raises(AuthenticationError):
                await asked(client_of(service))
            with pytest.raises(BadRequestError, match="gpt-test"):
                await asked(client_of(service, api_key="right-key-0123456789"))
            client = OpenAIChatClient("m", base_url=service.base_url, api_key="right-key-0123456789")
            with pytest.raises(ContextTooLongError):
                await asked(client, "long " * 100)

    @both
    async def test_an_error_inside_an_answer_that_began(self, service: ChatCompletionsStandIn, stream: bool) -> None:
        service.script(FailInStream(after=2))
        client = client_of(service)
        texts: list[str] = []
        with pytest.raises(ServiceError) as caught:
            await until_it_fails(client, texts)
        assert "".join(texts).startswith("You ")
        assert caught.value.status == 200
        assert len(service.requests) == 1

    async def test_an_error_in_place_of_an_answer(self, wire: Wire) -> None:
        wire.answers = [http({"error": {"message": "No such model", "code": 404}})]
        with pytest.raises(BadRequestError, match="No such model"):
            await asked(client_of(wire))

    async def test_a_redirect_is_not_followed(self, wire: Wire) -> None:
        wire.answers = [http(status=308, headers={"Location": "https://elsewhere.example/v1/chat/completions"})]
        with pytest.raises(BadRequestError, match=r"https://elsewhere\.example/v1/chat/completions.*base_url"):
            await asked(client_of(wire))
        assert len(wire.heads) == 1

    async def test_a_reason_that_does_not_end(self, wire: Wire) -> None:
        wire.answers = [Hangup(http(b'{"error":"over', status=400).replace(b"Content-Length: ", b"Content-Length: 9"))]
        with pytest.raises(BadRequestError):
            await asked(client_of(wire))

    async def test_a_bad_option_is_refused_before_anything_is_sent(self) -> None:
        with pytest.raises(ConfigurationError, match="more than 0"):
            OpenAIChatClient("m", api_key=KEY, read_timeout=0)
        with pytest.raises(ConfigurationError, match="OPENAI_CHAT_MODEL_ID"):
            request(OpenAIChatClient(api_key=KEY))


class TestRetries:
    @both
    async def test_until_it_works(self, service: ChatCompletionsStandIn, stream: bool) -> None:
        service.script(Fail(500), Fail(429, headers={"retry-after": "7"}), Say("Ahoy!"))
        runtime = Patient()
        assert await said(client_of(service, runtime=runtime), stream=stream) == "Ahoy!"
        assert 0.25 <= runtime.slept[0] <= 0.5
        assert runtime.slept[1] == 7
        assert len({record.body for record in service.requests}) == 1
        assert len(service.requests) == 3

    async def test_but_no_more_often_than_that(self, service: ChatCompletionsStandIn) -> None:
        service.script(*[Fail(503)] * 5)
        with pytest.raises(ServiceUnavailableError):
            await asked(client_of(service))
        assert len(service.requests) == 3
        with pytest.raises(ServiceUnavailableError):
            await asked(client_of(service, max_retries=0))
        assert len(service.requests) == 4

    async def test_the_service_knows_better(self, service: ChatCompletionsStandIn) -> None:
        service.script(Fail(500, headers={"x-should-retry": "false"}))
        with pytest.raises(ServiceUnavailableError):
            await asked(client_of(service))
        service.script(Fail(400, headers={"x-should-retry": "true", "retry-after-ms": "1500"}), Say("Ahoy!"))
        runtime = Patient()
        assert await said(client_of(service, runtime=runtime)) == "Ahoy!"
        assert runtime.slept == [1.5]

    async def test_a_service_that_asks_for_too_long(self, service: ChatCompletionsStandIn) -> None:
        service.script(Fail(429, headers={"retry-after": "3600"}))
        with pytest.raises(RateLimitError) as caught:
            await asked(client_of(service))
        assert caught.value.retry_after == 3600
        assert len(service.requests) == 1

    @both
    async def test_a_connection_that_ends_before_the_answer(
        self, service: ChatCompletionsStandIn, stream: bool
    ) -> None:
        service.script(CutStream(None), CutStream(None, how="reset"), Say("Ahoy!"))
        assert await said(client_of(service), stream=stream) == "Ahoy!"

    @pytest.mark.parametrize("how", ["close", "reset", "clean"])
    async def test_a_stream_that_ends_before_its_first_chunk(self, service: ChatCompletionsStandIn, how: Any) -> None:
        service.script(CutStream(0, how=how), Say("Ahoy!"))
        # An empty body that ended properly is no cut: the address is probably wrong.
        if how == "clean":
            with pytest.raises(ServiceProtocolError):
                await asked(client_of(service), stream=True)
        else:
            assert await said(client_of(service), stream=True) == "Ahoy!"

    async def test_an_unstreamed_answer_that_is_cut(self, service: ChatCompletionsStandIn) -> None:
        service.script(CutStream(1), CutStream(1, how="reset"), Say("Ahoy!"))
        assert await said(client_of(service)) == "Ahoy!"

    @pytest.mark.parametrize("mid_frame", [False, True])
    @pytest.mark.parametrize("how", ["close", "reset", "clean"])
    async def test_not_once_something_was_handed_on(
        self, service: ChatCompletionsStandIn, how: Any, mid_frame: bool
    ) -> None:
        service.script(CutStream(3, how=how, mid_frame=mid_frame, answer=Say("one two three four")))
        client = client_of(service)
        texts: list[str] = []
        with pytest.raises(ServiceUnavailableError, match="cut off"):
            await until_it_fails(client, texts)
        assert "".join(texts) == "one two " or how == "reset"
        assert len(service.requests) == 1

    async def test_broken_json_is_not_tried_again(self, service: ChatCompletionsStandIn) -> None:
        service.script(BrokenJSON(after=2, answer=Say("one two three")))
        client = client_of(service)
        texts: list[str] = []
        with pytest.raises(ServiceProtocolError, match="no JSON"):
            await until_it_fails(client, texts)
        assert "".join(texts) == "one "

    async def test_the_log_tells_of_them_without_content(
        self, service: ChatCompletionsStandIn, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "holdfast")
        service.script(Fail(500, message=f"content canary {KEY}"), Say("Ahoy canary!"))
        await asked(client_of(service), "Hello canary")
        records = [record for record in caplog.records if record.name.startswith("holdfast")]
        assert [(record.name, record.levelname) for record in records] == [("holdfast.clients", "INFO")]
        assert (
            records[0]
            .getMessage()
            .startswith("openai: ServiceUnavailable (status 500, request req_000001); retry 1 of 2")
        )
        assert "canary" not in records[0].getMessage()

    async def test_a_caller_who_leaves_while_it_waits(self, service: ChatCompletionsStandIn) -> None:
        from holdfast.ports.runtime import SYSTEM

        service.script(Fail(429, headers={"retry-after": "30"}))
        task = asyncio.create_task(asked(client_of(service, runtime=SYSTEM)))
        await service.wait_for_requests(1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(service.requests) == 1


class TestTimeouts:
    @both
    @pytest.mark.parametrize("after", [None, 0, 2])
    async def test_a_service_that_goes_silent(
        self, service: ChatCompletionsStandIn, after: int | None, stream: bool
    ) -> None:
        service.script(Hang(after=after))
        with pytest.raises(ServiceUnavailableError, match=r"nothing.* for 0.2 s"):
            await asked(client_of(service, read_timeout=0.2), stream=stream)
        assert len(service.requests) == 1  # who has thought for so long would think as long again

    async def test_a_long_answer_may_take_longer_than_that(self, service: ChatCompletionsStandIn) -> None:
        service.script(Say("a b c d e f g h", delay=0.1))
        assert await said(client_of(service, read_timeout=0.5), stream=True) == "a b c d e f g h"


class TestClosing:
    async def test_leaving_early_closes_the_connection(self, service: ChatCompletionsStandIn) -> None:
        service.script(Say("a b c d e f g h", delay=30))
        client = client_of(service)
        answers = client.ask(request(client, stream=True))
        async for _ in answers:
            break
        await answers.aclose()
        async with asyncio.timeout(5):
            await service.wait_until_idle()
        assert service.last.disconnected

    async def test_so_does_a_cancelled_reader(self, service: ChatCompletionsStandIn) -> None:
        for script in (Hang(), Hang(after=0), Hang(after=2)):
            service.script(script)
            task = asyncio.create_task(asked(client_of(service), stream=True))
            await service.wait_for_requests(len(service.requests) + 1)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(5):
                await service.wait_until_idle()
            assert service.last.disconnected

    async def test_closing_the_client_ends_what_is_going_on(self, service: ChatCompletionsStandIn) -> None:
        service.script(Hang(after=2), Hang(), Say("Ahoy!"))
        client = client_of(service, max_retries=0)
        tasks = [asyncio.create_task(asked(client, stream=stream)) for stream in (True, False)]
        await service.wait_for_requests(2)
        await asyncio.sleep(0.05)
        await client.aclose()
        async with asyncio.timeout(5):
            for task in tasks:
                with pytest.raises(ServiceUnavailableError):
                    await task
        assert await said(client) == "Ahoy!"  # it can be used again

    async def test_as_a_context(self, service: ChatCompletionsStandIn) -> None:
        async with client_of(service) as client:
            await asked(client)
            await asked(client)
        await client.aclose()


class TestSecrets:
    @both
    @pytest.mark.parametrize(
        "played",
        [
            http({"error": {"message": f"bad {KEY} canary-header-0123456789 canary-path-0123456789"}}, status=400),
            http(f"<title>{KEY}</title>".encode(), status=500, kind="text/html", headers={"x-request-id": KEY}),
            http({"error": {"message": f"bad {KEY}", "code": KEY}}),
            http(f"bad {KEY}".encode(), kind=f"text/{KEY}"),
            http(status=302, headers={"Location": f"https://{KEY}:{KEY}@h/{KEY}?k={KEY}"}),
            Hangup(b""),
            Hangup(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"),
            Hangup(f"nonsense {KEY}\r\n\r\n".encode()),
        ],
    )
    async def test_no_error_shows_them(self, wire: Wire, played: bytes, stream: bool) -> None:
        wire.answers = [played]
        client = OpenAIChatClient(
            "m",
            base_url=f"{wire.base_url}/canary-path-0123456789",
            api_key=KEY,
            default_headers={"X-Token": "canary-header-0123456789"},
            runtime=Patient(),
        )
        with pytest.raises(ServiceError) as caught:
            await asked(client, stream=stream)
        told = "".join(traceback.format_exception(caught.value))
        error: BaseException | None = caught.value
        while error is not None:
            told += f"{error!r} {error!s} {vars(error)}"
            error = error.__cause__ or error.__context__
        assert "canary" not in told.replace("test_openai_chat.py", "")

    def test_nor_does_the_client(self) -> None:
        client = OpenAIChatClient(
            "m", base_url="https://h/canary-path-0123456789/v1", api_key=KEY, default_headers={"X": "canary-header"}
        )
        assert repr(client) == "OpenAIChatClient('m', at https://h)"
        assert KEY not in repr(vars(client))
        assert "canary-header" not in repr(vars(client))


def test_it_is_a_chat_client() -> None:
    client: ChatClient = OpenAIChatClient("m", api_key=KEY)
    assert (client.service, client.keeps_history) == ("openai", False)
    assert client.codec.name == "openai-chat/1/system"


def test_making_one_imports_no_http_library_and_touches_no_network() -> None:
    code = (
        "import sys; from holdfast.clients.openai_chat import OpenAIChatClient; OpenAIChatClient('m', api_key='k');"
        "print({'aiohttp', 'pydantic', 'http.client', 'urllib.request'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
