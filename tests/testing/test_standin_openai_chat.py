"""The stand-in for Chat Completions, met by its real client: the official openai package, streamed and not."""

import asyncio
import json
import signal
import subprocess
import sys
from typing import get_args

import aiohttp
import openai
import pytest

from holdfast.testing import openai_chat
from holdfast.testing.openai_chat import (
    SLOPPY,
    BrokenJSON,
    CallTools,
    ChatCompletionsStandIn,
    CutStream,
    Fail,
    FailInStream,
    Hang,
    Refuse,
    Say,
    Sloppy,
    ToolCall,
    Usage,
)

HI = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
KEY = "sk-test-0123456789abcdef"


@pytest.fixture
async def service():
    async with ChatCompletionsStandIn(api_key=KEY, context_limit=1000) as service:
        yield service


@pytest.fixture
async def client(service):
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=KEY) as client:
        yield client


async def ask(client, messages=HI, **parameters):
    return await client.chat.completions.create(model="gpt-test", messages=messages, **parameters)


async def collect(client, chunks, messages=HI, **parameters):
    async with await ask(client, messages, stream=True, **parameters) as incoming:
        async for chunk in incoming:
            chunks.append(chunk)


async def stream(client, messages=HI, **parameters):
    chunks = []
    await collect(client, chunks, messages, **parameters)
    return chunks


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# Answers.


async def test_a_whole_answer(service, client):
    service.script(Say("Ahoy, matey!"))
    answer = await ask(client)
    assert answer.choices[0].message.content == "Ahoy, matey!"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-000001", "chat.completion", "gpt-test")
    assert answer.system_fingerprint
    assert answer.usage.prompt_tokens == 1
    assert answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == 4
    assert answer._request_id == service.last.request_id == "req_000001"
    assert service.refused == []


async def test_a_streamed_answer(service, client):
    service.script(Say("Ahoy, my matey!"))
    chunks = await stream(client)
    told = [(chunk.choices[0].delta.role, chunk.choices[0].delta.content) for chunk in chunks]
    assert told == [("assistant", ""), (None, "Ahoy, "), (None, "my "), (None, "matey!"), (None, None)]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, None, "stop"]
    assert {(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks} == {
        ("chatcmpl-000001", "chat.completion.chunk", 1_700_000_001, "gpt-test")
    }
    assert all(chunk.system_fingerprint and chunk.usage is None for chunk in chunks)


async def test_usage_of_a_stream_comes_in_a_chunk_of_its_own(service, client):
    service.script(Say("x" * 40, usage=Usage(12, 34, cached_tokens=8, reasoning_tokens=5)))
    *chunks, last = await stream(client, stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (12, 34, 46)
    assert last.usage.prompt_tokens_details.cached_tokens == 8
    assert last.usage.completion_tokens_details.reasoning_tokens == 5


async def test_usage_can_be_left_out(service, client):
    service.script(Say("x", usage=False), Say("x", usage=False))
    assert (await ask(client)).usage is None
    chunks = await stream(client, stream_options={"include_usage": True})
    assert all(chunk.choices for chunk in chunks)


async def test_obfuscation_is_sent_unless_it_is_declined(client):
    assert all(chunk.obfuscation for chunk in await stream(client))
    declined = await stream(client, stream_options={"include_obfuscation": False})
    assert all(chunk.obfuscation is None for chunk in declined)


@pytest.mark.parametrize(
    ("said", "pieces"),
    [
        (Say("one two  three"), ["one ", "two  ", "three"]),
        (Say("  "), ["  "]),
        (Say(""), []),
        (Say("abcdef", pieces=4), ["a", "bc", "d", "ef"]),
        (Say("ab", pieces=9), ["a", "b"]),
        (Say(pieces=["a", "", "b"]), ["a", "", "b"]),
    ],
)
async def test_a_text_is_streamed_in_the_pieces_asked_for(service, client, said, pieces):
    service.script(said, said)
    chunks = await stream(client)
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-1]] == pieces
    assert (await ask(client)).choices[0].message.content == "".join(pieces)


async def test_chunks_are_as_far_apart_as_asked(service, client):
    service.script(Say("a b c d", delay=0.02))
    started = asyncio.get_running_loop().time()
    await stream(client)
    assert asyncio.get_running_loop().time() - started >= 6 * 0.02 * 0.9


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_finish_reasons(service, client, reason):
    service.script(Say("Ahoy", finish_reason=reason), Say("Ahoy", finish_reason=reason))
    assert (await ask(client)).choices[0].finish_reason == reason
    chunks = await stream(client)
    assert (text_of(chunks), chunks[-1].choices[0].finish_reason) == ("Ahoy", reason)


async def test_a_refusal(service, client):
    service.script(Refuse("I will not."), Refuse("I will not."))
    message = (await ask(client)).choices[0].message
    assert (message.content, message.refusal) == (None, "I will not.")
    chunks = await stream(client)
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == "I will not."
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    assert text_of(chunks) == ""


async def test_reasoning_is_told_before_the_text(service, client):
    service.script(Say("42", reasoning="Let me think."), Say("42", reasoning="Let me think."))
    answer = await ask(client)
    assert answer.choices[0].message.reasoning_content == "Let me think."
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4
    deltas = [chunk.choices[0].delta for chunk in await stream(client)]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Let me think."
    assert deltas[-2].content == "42"


async def test_several_choices(client):
    assert [choice.index for choice in (await ask(client, n=3)).choices] == [0, 1, 2]
    chunks = await stream(client, n=2)
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == ["stop", "stop"]


async def test_a_round_trip_of_tool_calls(service, client):
    asked = CallTools([("weather", {"city": "Oslo"}), ToolCall("weather", '{"city": "Ber', id="mine")], text="Let me")
    service.script(asked, "It is sunny in both.")
    first = await ask(client, tools=[WEATHER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert [(call.id, call.function.arguments) for call in message.tool_calls] == [
        ("call_000001_0", '{"city":"Oslo"}'),
        ("mine", '{"city": "Ber'),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    history = [*HI, message.model_dump(exclude_none=True), *results]
    assert (await ask(client, history, tools=[WEATHER])).choices[0].message.content == "It is sunny in both."
    assert service.messages(-1)[1]["tool_calls"][1]["id"] == "mine"
    assert service.refused == []


@pytest.mark.parametrize("pieces", [0, 1, 3])
async def test_tool_calls_are_streamed_in_fragments(service, client, pieces):
    service.script(CallTools([("weather", {"city": "Oslo"}), ("time", {})], pieces=pieces))
    chunks = await stream(client, tools=[WEATHER])
    assert chunks[0].choices[0].delta.content is None
    calls = {}
    for chunk in chunks:
        for part in chunk.choices[0].delta.tool_calls or []:
            if part.id:
                calls[part.index] = [part.id, part.function.name, ""]
            calls[part.index][2] += part.function.arguments
    assert calls == {0: ["call_000001_0", "weather", '{"city":"Oslo"}'], 1: ["call_000001_1", "time", "{}"]}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_the_sdks_own_accumulator_understands_the_stream(service, client):
    service.script(CallTools([("weather", {"city": "Oslo"})]), Say("a b c"))
    for _ in range(2):
        async with client.chat.completions.stream(model="gpt-test", messages=HI) as events:
            final = await events.get_final_completion()
        assert final.choices[0].finish_reason in ("tool_calls", "stop")
    assert final.choices[0].message.content == "a b c"


async def test_the_echo_shows_what_the_service_was_told(client):
    history = [*HI, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Again"}]
    assert (await ask(client, history)).choices[0].message.content == "You said: Again (message 3)"


async def test_models(service, client):
    assert [model.id async for model in client.models.list()] == ["stand-in"]
    async with (
        ChatCompletionsStandIn(models=["b", "a"]) as service,
        openai.AsyncOpenAI(base_url=service.base_url, api_key=KEY) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["a", "b"]
        assert (await client.models.retrieve("a")).owned_by == "holdfast"
        with pytest.raises(openai.NotFoundError) as caught:
            await ask(client)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("c")


# Errors, as the package's own classes.


async def test_a_wrong_key_is_refused_and_never_shown(service):
    wrong = "sk-wrong-9876543210zyxw"
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=wrong) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await ask(client)
    assert caught.value.code == "invalid_api_key"
    assert "sk-***zyxw" in caught.value.message
    assert wrong not in str(caught.value) + repr(service.last)
    assert len(service.refused) == 1
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"{service.base_url}/models")
        assert response.status == 401
        assert "didn't provide" in (await response.json())["error"]["message"]


async def test_a_rate_limit_is_retried_after_the_time_it_tells(service, client):
    service.script(Fail(429, headers={"Retry-After": "0.2"}), "at last")
    assert (await ask(client)).choices[0].message.content == "at last"
    first, second = service.requests
    assert (first.status, second.status) == (429, 200)
    assert 0.2 <= second.at - first.at < 2
    assert second.headers["x-stainless-retry-count"] == "1"
    assert service.refused == []


@pytest.mark.parametrize(
    ("fail", "error", "code"),
    [
        (Fail(400), openai.BadRequestError, None),
        (Fail(400, code="content_filter"), openai.BadRequestError, "content_filter"),
        (Fail(401), openai.AuthenticationError, "invalid_api_key"),
        (Fail(403), openai.PermissionDeniedError, None),
        (Fail(404), openai.NotFoundError, "model_not_found"),
        (Fail(409), openai.ConflictError, None),
        (Fail(429), openai.RateLimitError, "rate_limit_exceeded"),
        (Fail(429, code="insufficient_quota"), openai.RateLimitError, "insufficient_quota"),
        (Fail(500), openai.InternalServerError, None),
        (Fail(502, body="<html>Bad gateway</html>"), openai.InternalServerError, None),
        (Fail(503), openai.InternalServerError, None),
        (Fail(529, message="Busy.", type="overloaded"), openai.InternalServerError, None),
    ],
)
async def test_failures_are_the_sdks_own_errors(service, fail, error, code):
    service.script(fail, fail)
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=KEY, max_retries=0) as client:
        with pytest.raises(error) as caught:
            await ask(client)
        assert caught.value.code == code
        assert caught.value.status_code == fail.status
        assert caught.value.request_id == "req_000001"
        with pytest.raises(error):
            await stream(client)


async def test_quota_and_server_errors_have_their_types(service):
    service.script(Fail(429, code="insufficient_quota"), Fail(500), Fail(500, message="M", type="t", param="p"))
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=KEY, max_retries=0) as client:
        told = []
        for _ in range(3):
            with pytest.raises(openai.APIStatusError) as caught:
                await ask(client)
            told.append((caught.value.type, caught.value.param))
    assert told == [("insufficient_quota", None), ("server_error", None), ("t", "p")]


async def test_server_errors_are_retried_by_the_sdk(service, client):
    service.script(Fail(500, headers={"retry-after-ms": "1"}), Fail(503, headers={"retry-after-ms": "1"}), "up again")
    assert (await ask(client)).choices[0].message.content == "up again"


async def test_a_context_that_is_too_long(service, client):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, [{"role": "user", "content": "x" * 4001}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert service.refused == service.requests


async def test_unpaired_tool_calls(client):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    with pytest.raises(openai.BadRequestError, match="did not have response messages: c1") as caught:
        await ask(client, [*HI, {"role": "assistant", "tool_calls": [call]}, *HI])
    assert caught.value.param == "messages.[2].role"
    with pytest.raises(openai.BadRequestError, match="must be a response to a preceeding message"):
        await stream(client, [*HI, {"role": "tool", "tool_call_id": "c1", "content": "x"}])


async def test_an_error_in_the_middle_of_a_stream(service, client):
    service.script(FailInStream(after=3, answer=Say("a b c"), code="overloaded"))
    chunks = []
    with pytest.raises(openai.APIError) as caught:
        await collect(client, chunks)
    assert (text_of(chunks), caught.value.code) == ("a b ", "overloaded")


@pytest.mark.parametrize("cut", [{}, {"mid_frame": True}, {"how": "reset"}])
async def test_a_cut_stream_is_a_connection_error_after_what_came(service, client, cut):
    service.script(CutStream(after=3, answer=Say("a b c", delay=0.01), **cut))
    chunks = []
    with pytest.raises(openai.APIConnectionError):
        await collect(client, chunks)
    assert text_of(chunks) == "a b "


async def test_a_stream_that_ends_too_soon_but_properly(service, client):
    service.script(CutStream(after=3, how="clean", answer=Say("a b c")))
    chunks = await stream(client)
    assert (text_of(chunks), chunks[-1].choices[0].finish_reason) == ("a b ", None)


async def test_a_connection_that_drops_before_the_headers_is_retried(service, client):
    service.script(CutStream(after=None), "second time")
    assert (await ask(client)).choices[0].message.content == "second time"
    assert [record.ending for record in service.requests] == ["cut", "complete"]


async def test_broken_json(service):
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=KEY, max_retries=0) as client:
        service.script(BrokenJSON(after=1), BrokenJSON())
        with pytest.raises(json.JSONDecodeError):
            await stream(client)
        with pytest.raises((openai.APIResponseValidationError, json.JSONDecodeError)):
            await ask(client)


@pytest.mark.parametrize("after", [None, 2])
async def test_a_service_that_hangs_runs_into_the_timeout(service, after):
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=KEY, max_retries=0, timeout=0.2) as client:
        service.script(Hang(after=after))
        with pytest.raises(openai.APITimeoutError):
            await stream(client)
    await service.wait_until_idle()
    assert service.last.disconnected


def test_the_synchronous_client_and_a_service_in_a_thread():
    with ChatCompletionsStandIn() as service, openai.OpenAI(base_url=service.base_url, api_key="x") as client:
        service.script("whole", Say("in pieces"), Fail(500, headers={"retry-after-ms": "1"}), "again")
        whole = client.chat.completions.create(model="m", messages=HI)
        assert whole.choices[0].message.content == "whole"
        with client.chat.completions.create(model="m", messages=HI, stream=True) as chunks:
            assert text_of(list(chunks)) == "in pieces"
        assert client.chat.completions.create(model="m", messages=HI).choices[0].message.content == "again"
        service.block_until_idle()
        assert [record.status for record in service.requests] == [200, 200, 500, 200]
        assert {record.ending for record in service.requests} == {"complete"}


# What is refused before the rules are asked.


@pytest.mark.parametrize(
    ("method", "path", "content_type", "data", "status", "told"),
    [
        ("POST", "/chat/completion", "application/json", b"{}", 404, "Invalid URL (POST /v1/chat/completion)"),
        ("GET", "/chat/completions", "", b"", 405, "Not allowed to GET"),
        ("DELETE", "/models", "", b"", 405, "Not allowed to DELETE"),
        ("POST", "/chat/completions", "text/plain", b"{}", 400, "Unsupported content type: 'text/plain'"),
        ("POST", "/chat/completions", "application/json", b"{", 400, "could not parse the JSON body"),
        ("POST", "/chat/completions", "application/json", b"", 400, "could not parse"),
        ("POST", "/chat/completions", "application/json", b"[]", 400, "not a JSON object"),
        ("POST", "/chat/completions", "application/json", b'{"a":"\xff"}', 400, "could not parse"),
        ("POST", "/chat/completions", "application/json", b'{"a":"\\ud800"}', 400, "could not parse"),
        ("POST", "/chat/completions", "application/json", b'{"a":NaN}', 400, "could not parse"),
        ("POST", "/chat/completions", "application/json; charset=utf-8", b"{}", 400, "provide a model"),
    ],
)
async def test_requests_that_are_none(method, path, content_type, data, status, told):
    async with ChatCompletionsStandIn() as service, aiohttp.ClientSession() as session:
        headers = {"content-type": content_type} if content_type else {}
        response = await session.request(method, service.base_url + path, data=data or None, headers=headers)
        error = (await response.json())["error"]
        assert response.status == status
        assert told in error["message"]
        assert error["type"] == "invalid_request_error"
        assert response.headers["x-request-id"] == service.refused[0].request_id


# Servers that are less tidy.

TIDY_TEXT = "Grüße an alle 🎉 !"


async def lines(service, **parameters):
    """The raw answer to one request."""
    async with aiohttp.ClientSession() as session:
        given = {"model": "m", "messages": HI, "stream": True, **parameters}
        response = await session.post(f"{service.base_url}/chat/completions", json=given)
        return await response.read(), [piece async for piece in response.content.iter_any()], response.content_type


@pytest.mark.parametrize("name", sorted(SLOPPY - {"json_for_stream"}))
async def test_the_sdk_takes_every_sloppiness_of_a_text(name):
    async with (
        ChatCompletionsStandIn(sloppy=name) as service,
        openai.AsyncOpenAI(base_url=service.base_url, api_key="x") as client,
    ):
        service.script(Say(TIDY_TEXT))
        assert text_of(await stream(client, stream_options={"include_usage": True})) == TIDY_TEXT


@pytest.mark.parametrize(
    ("name", "there", "missing"),
    [
        ("no_done", b'"finish_reason":"stop"', b"[DONE]"),
        ("no_finish", b"[DONE]", b'"finish_reason":"stop"'),
        ("no_role", b'"content":""', b'"role"'),
        ("null_content", b'"delta":{"content":null}', b'"delta":{}'),
        ("empty_choices", b'"choices":[],', b"\x00"),
        ("usage_on_finish", b'"usage":{"prompt_tokens"', b'"choices":[],"usage"'),
        ("usage_on_content", b'"content":"1)"', b'"choices":[],"usage"'),
        ("comments", b": ping\n\ndata: {", b"\r"),
        ("crlf", b"\r\n\r\ndata: [DONE]\r\n\r\n", b"}\n"),
        ("no_space", b"\n\ndata:{", b"data: "),
    ],
)
async def test_what_a_sloppy_stream_looks_like(name, there, missing):
    async with ChatCompletionsStandIn(sloppy=name) as service:
        body, _, _ = await lines(service)
        assert there in body
        assert missing not in body


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(("name", "times"), [("usage_on_finish", 1), ("usage_on_content", 1), ("usage_everywhere", 4)])
async def test_usage_where_others_put_it(name, times, include):
    async with ChatCompletionsStandIn(sloppy=[name]) as service:
        service.script(Say("a b"))
        body, _, _ = await lines(service, stream_options={"include_usage": include})
        assert body.count(b'"usage":{') == times
        assert b'"choices":[]' not in body


@pytest.mark.parametrize(
    ("name", "fragment", "later"),
    [
        ("no_tool_index", {"id", "type", "function"}, {"function"}),
        ("zero_tool_index", {"index", "id", "type", "function"}, {"index", "function"}),
        ("empty_tool_ids", {"index", "id", "type", "function"}, {"index", "id", "type", "function"}),
    ],
)
async def test_tool_calls_as_others_stream_them(name, fragment, later):
    async with ChatCompletionsStandIn(sloppy=name) as service:
        service.script(CallTools([("a", {"x": 1}), ("b", {})], pieces=1))
        body, _, _ = await lines(service)
        chunks = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
        parts = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", [])]
        assert [set(part) for part in parts] == [fragment, later, fragment, later]
        if name == "zero_tool_index":
            assert {part["index"] for part in parts} == {0}
        if name == "empty_tool_ids":
            assert (parts[1]["id"], parts[1]["function"]) == ("", {"name": "", "arguments": '{"x":1}'})


async def test_a_whole_answer_for_a_stream_and_the_other_way_round():
    async with ChatCompletionsStandIn(sloppy=["json_for_stream", "stream_for_json"]) as service:
        body, _, kind = await lines(service)
        assert (kind, json.loads(body)["object"]) == ("application/json", "chat.completion")
        body, _, kind = await lines(service, stream=False)
        assert kind == "text/event-stream"
        assert body.endswith(b"data: [DONE]\n\n")


async def test_frames_in_one_write_and_frames_torn_inside_a_character():
    async with ChatCompletionsStandIn() as service, aiohttp.ClientSession() as session:
        service.script(Say(TIDY_TEXT, sloppy="batched"), Say(TIDY_TEXT, sloppy="torn"))
        writes = []
        for _ in range(2):
            given = {"model": "m", "messages": HI, "stream": True}
            response = await session.post(f"{service.base_url}/chat/completions", json=given)
            writes.append([data async for data, _ in response.content.iter_chunks() if data])
        batched, torn = writes
        assert len(batched) == 1
        assert batched[0].endswith(b"data: [DONE]\n\n")
        assert len(torn) == 2 * b"".join(torn).count(b"data: ")
        assert sum("\ufffd" in piece.decode(errors="replace") for piece in torn) == 4


def test_the_sloppy_names_are_all_there_is():
    assert set(get_args(Sloppy)) == SLOPPY
    with pytest.raises(ValueError, match="No such sloppiness: tidy"):
        Say("x", sloppy="tidy")
    with pytest.raises(ValueError, match="No such sloppiness"):
        ChatCompletionsStandIn(sloppy=["no_done", "tidy"])


# Promises of the module.


async def test_the_same_requests_get_the_same_bytes():
    async def conversation():
        async with ChatCompletionsStandIn() as service:
            service.script(Say("a b"), CallTools([("t", {})]), Fail(500), Refuse(), FailInStream())
            return [await lines(service) for _ in range(6)]

    first, second = await conversation(), await conversation()
    assert [body for body, _, _ in first] == [body for body, _, _ in second]


def test_answers_are_checked_where_they_are_made():
    with pytest.raises(ValueError, match="at least one call"):
        CallTools([])
    with pytest.raises(ValueError, match="do not add up"):
        Say("abc", pieces=["a", "b"])
    assert Say(pieces=["a", "b"]) == Say("ab", pieces=["a", "b"])
    with pytest.raises(AttributeError):
        Say("x").text = "y"


def test_the_front_of_the_module_is_what_it_says():
    assert sorted(openai_chat.__all__) == sorted(set(openai_chat.__all__))
    assert all(hasattr(openai_chat, name) for name in openai_chat.__all__)


# A process of its own.


def served(*arguments):
    command = [sys.executable, "-W", "error", "-m", "holdfast.testing.openai_chat", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_of_its_own(number):
    process, base_url = served("--port", "0", "--reply", "words:3", "--chunk-delay", "0.01", "--api-key", KEY)
    try:
        with openai.OpenAI(base_url=base_url, api_key=KEY) as client:
            chunks = list(client.chat.completions.create(model="m", messages=HI, stream=True))
            assert text_of(chunks) == "word0 word1 word2 "
    finally:
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")


def test_a_process_with_other_replies():
    process, base_url = served("--reply", "say:Ahoy!", "--lenient", "--sloppy", "no_done", "--context-limit", "5")
    try:
        with openai.OpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
            answer = client.chat.completions.create(model="m", messages=HI, extra_body={"unheard_of": 1})
            assert answer.choices[0].message.content == "Ahoy!"
            with pytest.raises(openai.BadRequestError, match="maximum context length is 5"):
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 21}])
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_a_process_that_is_told_nonsense(capsys):
    with pytest.raises(SystemExit):
        openai_chat.main(["--reply", "sing"])
    assert "use echo, say:TEXT or words:N" in capsys.readouterr().err
