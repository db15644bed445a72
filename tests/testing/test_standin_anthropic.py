"""The stand-in for Anthropic's Messages, proved with Anthropic's own package, and its rules one by one.

What the service refuses is what its reference documents and what it is known to say: each pair of a request and a
refusal below stands for one rule. Our client and the vendor's are compared request by request.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import pytest

from holdfast import AnthropicChatClient, ChatMessage, FileContent, ImageContent, TextContent, tool
from holdfast.testing.anthropic_messages import (
    STRICT,
    AnthropicStandIn,
    CallTools,
    CutStream,
    Fail,
    FailInStream,
    Refuse,
    Say,
    Usage,
    begins_with_the_user,
)

KEY = "sk-ant-test-0123456789"
PNG = base64.b64encode(b"\x89PNG nothing more").decode()
WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return rain_in(city)


def rain_in(city: str) -> str:
    return f"Rain in {city}."


@pytest.fixture
async def service() -> AsyncIterator[AnthropicStandIn]:
    async with AnthropicStandIn(api_key=KEY) as running:
        yield running


@pytest.fixture
async def sdk(service: AnthropicStandIn) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=service.base_url, max_retries=0) as client:
        yield client


async def asked(sdk: anthropic.AsyncAnthropic, stream: bool, **request: Any) -> Any:
    """The message that the vendor's package makes of an answer."""
    request = {"model": "claude-test", "max_tokens": 100, **request}
    if not stream:
        return await sdk.messages.create(**request)
    async with sdk.messages.stream(**request) as answer:
        return await answer.get_final_message()


async def conversation(sdk: anthropic.AsyncAnthropic, stream: bool) -> None:
    """Three turns with a question that needs two calls of a tool, as the vendor's documents show it."""
    messages: list[Any] = []
    for said in ("Hello", "How is the weather in Oslo and Rome?", [image_block(), {"type": "text", "text": "Here?"}]):
        messages.append({"role": "user", "content": said})
        while True:
            answer = await asked(sdk, stream, system="Be kind.", tools=[WEATHER], messages=messages)
            messages.append({"role": "assistant", "content": answer.content})
            calls = [block for block in answer.content if block.type == "tool_use"]
            if not calls:
                break
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": rain_in(**call.input)} for call in calls
            ]
            messages.append({"role": "user", "content": results})


def image_block() -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


def script(service: AnthropicStandIn) -> None:
    two = CallTools([("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})], text="Let me see.")
    service.script("Hello!", two, "It rains.", "It rains here too.")


class TestTheVendorsPackage:
    @both
    async def test_a_conversation_with_a_tool(
        self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic, stream: bool
    ) -> None:
        script(service)
        await conversation(sdk, stream)
        assert service.refused == []
        assert service.unused == 0
        assert service.messages(-1)[-1]["content"][1]["text"] == "Here?"

    @both
    async def test_all_of_an_answer(
        self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic, stream: bool
    ) -> None:
        usage = Usage(100, 9, cached_tokens=60, cache_write_tokens=30, reasoning_tokens=4)
        service.script(Say("It rains.", reasoning="Hm, the sky.", usage=usage, finish_reason="max_tokens"))
        answer = await asked(sdk, stream, messages=[{"role": "user", "content": "Hi"}])
        thought, text = answer.content
        assert (thought.type, thought.thinking, bool(thought.signature)) == ("thinking", "Hm, the sky.", True)
        assert (text.text, answer.stop_reason, answer.id) == ("It rains.", "max_tokens", "msg_000001")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 9)
        assert (answer.usage.cache_read_input_tokens, answer.usage.cache_creation_input_tokens) == (60, 30)

    @both
    async def test_what_was_thought_can_be_sent_back(
        self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic, stream: bool
    ) -> None:
        service.script(Say("It rains.", reasoning="Hm."), "Bye.")
        first: Any = {"role": "user", "content": "Hi"}
        answer = await asked(sdk, stream, messages=[first])
        await asked(sdk, stream, messages=[first, {"role": "assistant", "content": answer.content}, first])
        assert service.refused == []

    @both
    async def test_the_service_declines(
        self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic, stream: bool
    ) -> None:
        service.script(Refuse("Not that."))
        answer = await asked(sdk, stream, messages=[{"role": "user", "content": "Hi"}])
        assert (answer.stop_reason, answer.content) == ("refusal", [])
        assert answer.stop_details.explanation == "Not that."

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, anthropic.BadRequestError),
            (401, anthropic.AuthenticationError),
            (403, anthropic.PermissionDeniedError),
            (404, anthropic.NotFoundError),
            (429, anthropic.RateLimitError),
            (529, anthropic.InternalServerError),
        ],
    )
    async def test_errors(
        self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic, status: int, kind: Any
    ) -> None:
        service.script(Fail(status))
        with pytest.raises(kind) as caught:
            await asked(sdk, False, messages=[{"role": "user", "content": "Hi"}])
        assert caught.value.request_id == "req_000001"
        assert caught.value.body["type"] == "error"

    async def test_an_error_in_the_middle_of_a_stream(
        self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic
    ) -> None:
        service.script(FailInStream(after=4))
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            await asked(sdk, True, messages=[{"role": "user", "content": "Hi"}])

    async def test_a_stream_that_breaks(self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic) -> None:
        service.script(CutStream(after=4, how="reset"))
        with pytest.raises(Exception):  # noqa: B017  # the package lets through what its HTTP library raises
            await asked(sdk, True, messages=[{"role": "user", "content": "Hi"}])

    async def test_the_wrong_key_and_an_unknown_model(self) -> None:
        async with AnthropicStandIn(api_key=KEY, models=["claude-a"]) as service:
            for key, kind in (("wrong", anthropic.AuthenticationError), (KEY, anthropic.NotFoundError)):
                async with anthropic.AsyncAnthropic(api_key=key, base_url=service.base_url) as sdk:
                    with pytest.raises(kind):
                        await asked(sdk, False, messages=[{"role": "user", "content": "Hi"}])

    async def test_a_form_for_the_answer(self, service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
        service.script('{"n": 1}')
        form = {"format": {"type": "json_schema", "schema": schema}}
        answer = await asked(sdk, False, messages=[{"role": "user", "content": "Hi"}], output_config=form)
        assert json.loads(answer.content[0].text) == {"n": 1}


# --- our client and the vendor's -------------------------------------------------------------------------------


def joined(messages: list[Any]) -> list[Any]:
    """The turns that the service makes of messages: texts as blocks, neighbours of one role as one."""
    found: list[Any] = []
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        # The vendor's package sends back what it has read, with the members that were null.
        blocks = [{name: value for name, value in block.items() if value is not None} for block in blocks]
        if found and found[-1]["role"] == message["role"]:
            found[-1]["content"] += blocks
        else:
            found.append({"role": message["role"], "content": blocks})
    return found


@both
async def test_our_client_sends_what_the_vendors_package_sends(
    service: AnthropicStandIn, sdk: anthropic.AsyncAnthropic, stream: bool
) -> None:
    """The same conversation through both. The differences, each with its reason:

    - a text alone is a string with us, and a block with them: the service takes one as short for the other;
    - results of several calls are messages of their own with us: the service joins neighbours of one role, and a
      message whose bytes never depend on its neighbours is encoded once;
    - we ask for the cache and for another length of answers: settings of the client;
    - they send the key as a bearer token, we as x-api-key, as the service's own examples do, and compatible servers
      want it.
    """
    script(service)
    await conversation(sdk, stream)
    theirs = service.requests
    script(service)
    client = AnthropicChatClient("claude-test", base_url=service.base_url, api_key=KEY)
    agent = client.create_agent("Be kind.", tools=[weather])
    thread = agent.get_new_thread()
    image = ImageContent(f"data:image/png;base64,{PNG}")
    for said in (
        "Hello",
        "How is the weather in Oslo and Rome?",
        ChatMessage("user", contents=[image, TextContent("Here?")]),
    ):
        if stream:
            async for _ in agent.run_stream(said, thread=thread):
                pass
        else:
            await agent.run(said, thread=thread)
    ours = service.requests[len(theirs) :]
    assert service.refused == []
    assert len(ours) == len(theirs) == 4
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        said, expected = dict(mine.json), dict(other.json)
        # Ids are made from the number of the request.
        told = json.dumps(joined(said.pop("messages")), sort_keys=True)
        for number in range(1, len(theirs) + 1):
            told = told.replace(f"toolu_{number + len(theirs):06d}", f"toolu_{number:06d}")
        assert json.loads(told) == joined(expected.pop("messages")), index
        assert said.pop("cache_control") == {"type": "ephemeral"}
        assert (said.pop("max_tokens"), expected.pop("max_tokens")) == (16_000, 100)
        assert said == {name: value for name, value in expected.items() if name != "stream" or value}
        assert (mine.method, mine.path) == (other.method, other.path)
        assert mine.headers["anthropic-version"] == other.headers["anthropic-version"]
        assert "authorization" not in mine.headers
        assert "x-api-key" not in other.headers


# --- the rules -------------------------------------------------------------------------------------------------


def user(content: Any = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "Hello") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def use(call_id: Any = "c1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": {}, **more}


def result(call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": "r", **more}


def text(words: Any = "Hi", **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def talk(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 10, "messages": list(messages) or [user()], **more}


def schema(**properties: Any) -> dict[str, Any]:
    made = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"format": {"type": "json_schema", "schema": made}}


GOOD: dict[str, dict[str, Any]] = {
    "a question": talk(),
    "neighbours of one role": talk(user(), user(), assistant(), assistant(), user()),
    "an assistant begins": talk(assistant(), user()),
    "results in messages of their own": talk(
        user(), assistant([text(), use("c1"), use("c2")]), user([result("c2")]), user([result("c1")])
    ),
    "words after results": talk(user(), assistant([use()]), user([result(), text()]), user()),
    "words of the user right after results": talk(user(), assistant([use()]), user([result()]), user()),
    "a result without words": talk(user(), assistant([use()]), user([result(is_error=False, content="")])),
    "no tools though there were calls": talk(user(), assistant([use()]), user([result()])),
    "all options": talk(
        system=[text("Be kind.", cache_control={"type": "ephemeral", "ttl": "1h"})],
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        thinking={"type": "adaptive"},
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        output_config={"effort": "high"},
        cache_control={"type": "ephemeral"},
        service_tier="auto",
        stream=False,
    ),
    "a document": talk(
        user([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}, "title": "t"}])
    ),
}  # fmt: skip

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"max_tokens": 1, "messages": [user()]}, "model: Field required"),
    "no length": ({"model": "m", "messages": [user()]}, "max_tokens: Field required"),
    "no messages at all": ({"model": "m", "max_tokens": 1}, "messages: Field required"),
    "no message": ({"model": "m", "max_tokens": 1, "messages": []}, "at least one message is required"),
    "an unknown parameter": (talk(seed=1), "seed: Extra inputs are not permitted"),
    "a temperature": (talk(temperature=1), "temperature: Extra inputs are not permitted"),
    "a length that is none": (talk(max_tokens="many"), "max_tokens: Input should be a valid integer"),
    "a length below nothing": (talk(max_tokens=-1), "greater than or equal to 0"),
    "a null": (talk(system=None), "system: Input should be a valid list"),
    "a role of another service": (talk({"role": "tool", "content": "r"}), "messages.0.role: Input should be 'user' or"),
    "instructions as a message": (talk({"role": "system", "content": "s"}), 'Unexpected role "system"'),
    "an unknown member": (talk({**user(), "name": "anna"}), "messages.0.name: Extra inputs are not permitted"),
    "an empty content": (talk(user("")), "messages.0: all messages must have non-empty content"),
    "no block": (talk(user([])), "messages.0: all messages must have non-empty content"),
    "an empty text": (talk(user([text("")])), "text content blocks must be non-empty"),
    "a blank text": (talk(user([text(" \n")])), "must contain non-whitespace text"),
    "a blank string": (talk(user("  ")), "must contain non-whitespace text"),
    "blank instructions": (talk(system="  "), "system: text content blocks must contain non-whitespace text"),
    "a text that is none": (talk(user([text(5)])), "messages.0.content.0.text.text: Input should be a valid string"),
    "a block of another service": (talk(user([{"type": "image_url"}])), "does not match any of the expected tags"),
    "a call of the user's": (talk(user([use()])), "does not match any of the expected tags"),
    "a document of the assistant's": (
        talk(user(), assistant([{"type": "document", "source": {}}]), user()),
        "does not match any of the expected tags",
    ),
    "an odd id": (
        talk(user(), assistant([use("f:0")]), user([result("f:0")])),
        "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
    ),
    "arguments as text": (talk(user(), assistant([use(input="{}")]), user([result()])), "valid dictionary"),
    "a call without a result": (talk(user(), assistant([use()]), user()), "messages.1: `tool_use` ids were found"),
    "a call at the end": (talk(user(), assistant([use()])), "`tool_use` ids were found without"),
    "one of two results": (
        talk(user(), assistant([use("c1"), use("c2")]), user([result("c1")]), assistant(), user([result("c2")])),
        "immediately after: c2.",
    ),
    "words before a result": (
        talk(user(), assistant([use()]), user([text(), result()])),
        "`tool_use` ids were found without",
    ),
    "a message before a result": (
        talk(user(), assistant([use()]), user(), user([result()])),
        "`tool_use` ids were found without",
    ),
    "a result without a call": (talk(user([result()])), "messages.0.content.0: unexpected `tool_use_id` found"),
    "two results": (talk(user(), assistant([use()]), user([result(), result()])), "must have a single result"),
    "an id twice": (talk(user(), assistant([use(), use()]), user([result()])), "`tool_use` ids must be unique"),
    "an id in two turns": (
        talk(user(), assistant([use()]), user([result()]), assistant([use()]), user([result()])),
        "messages.3.content.0: `tool_use` ids must be unique",
    ),
    "an error without words": (
        talk(user(), assistant([use()]), user([result(is_error=True, content="")])),
        "content cannot be empty if `is_error` is true",
    ),
    "a thought without a signature": (
        talk(user(), assistant([{"type": "thinking", "thinking": "Hm."}, text()]), user()),
        "messages.1.content.0.thinking.signature: Field required",
    ),
    "an image of another kind": (
        talk(user([{"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "AAAA"}}])),
        "media_type: Input should be 'image/jpeg'",
    ),
    "an image that is no base64": (
        talk(user([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}}])),
        "Invalid base64",
    ),
    "an image from anywhere": (
        talk(user([{"type": "image", "source": {"type": "url", "url": "http://example.org/a.png"}}])),
        "Only HTTPS URLs",
    ),
    "the assistant speaks last": (talk(user(), assistant("Well,")), "does not support assistant message prefill"),
    "a choice without tools": (talk(tool_choice={"type": "auto"}), "may only be specified while providing tools"),
    "a choice of another tool": (talk(tools=[WEATHER], tool_choice={"type": "tool", "name": "g"}), "'g' not found"),
    "a word of another service": (talk(tools=[WEATHER], tool_choice={"type": "required"}), "tool_choice.type: Input"),
    "two tools of one name": (talk(tools=[WEATHER, WEATHER]), "Tool names must be unique"),
    "a name that is none": (talk(tools=[{**WEATHER, "name": "a b"}]), "tools.0.custom.name: String should match"),
    "a tool of another service": (talk(tools=[{"type": "custom", "function": {}}]), "tools.0.custom.function: Extra"),
    "a schema that is none": (talk(tools=[{**WEATHER, "input_schema": {}}]), "input_schema.type: Field required"),
    "a schema of several": (
        talk(tools=[{**WEATHER, "input_schema": {"type": "object", "anyOf": []}}]),
        "does not support oneOf, allOf, or anyOf",
    ),
    "a stop that is blank": (talk(stop_sequences=[" "]), "must contain non-whitespace"),
    "a form with open objects": (talk(output_config=schema(a={"type": "object"})), "explicitly set to false"),
    "a form with limits": (talk(output_config=schema(a={"type": "string", "minLength": 1})), "minLength are not"),
    "an effort that is none": (talk(output_config={"effort": "minimal"}), "output_config.effort: Input should be"),
    "a cache of another kind": (talk(cache_control={"type": "eternal"}), "cache_control.type: Input should be"),
}  # fmt: skip


async def posted(service: AnthropicStandIn, body: Any, **headers: str | None) -> tuple[int, Any]:
    known = {"x-api-key": KEY, "anthropic-version": "2026-10-21", "content-type": "application/json"}
    sent = {**known, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{service.base_url}/v1/messages",
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={name: value for name, value in sent.items() if value is not None},
        ) as response,
    ):
        assert response.headers["request-id"]
        return response.status, await response.json()


@pytest.mark.parametrize("name", GOOD)
async def test_what_the_service_takes(service: AnthropicStandIn, name: str) -> None:
    status, found = await posted(service, GOOD[name])
    assert (status, found.get("type")) == (200, "message"), found


@pytest.mark.parametrize("name", BAD)
async def test_what_the_service_refuses(service: AnthropicStandIn, name: str) -> None:
    body, words = BAD[name]
    status, found = await posted(service, body)
    assert status == 400
    assert found["type"] == "error"
    assert found["error"]["type"] == "invalid_request_error"
    assert words in found["error"]["message"]
    assert service.refused[0].refusal == found["error"]["message"]
    assert found["request_id"] == "req_000001"


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"anthropic_version": None}, 400, "anthropic-version: header is required"),
        ({"anthropic_version": "2024-01-01"}, 400, "not a valid version"),
        ({"content_type": "text/plain"}, 400, "application/json"),
        ({"x_api_key": None}, 401, "x-api-key header is required"),
        ({"x_api_key": "wrong"}, 401, "invalid x-api-key"),
    ],
)
async def test_headers(service: AnthropicStandIn, headers: Any, status: int, words: str) -> None:
    found, body = await posted(service, talk(), **headers)
    assert found == status
    assert words in body["error"]["message"]


async def test_the_older_version_samples(service: AnthropicStandIn) -> None:
    status, _ = await posted(service, talk(temperature=0.5, top_p=1), anthropic_version="2023-06-01")
    assert status == 200


async def test_what_is_no_json(service: AnthropicStandIn) -> None:
    for body in (b"{", b"[]"):
        assert (await posted(service, body))[0] == 400


async def test_a_conversation_that_is_too_long() -> None:
    async with AnthropicStandIn(context_limit=10) as service:
        status, found = await posted(service, talk(user("word " * 20)))
    assert (status, found["error"]["message"]) == (400, "prompt is too long: 25 tokens > 10 maximum")


async def test_rules_can_be_added() -> None:
    async with AnthropicStandIn(rules=(*STRICT, begins_with_the_user)) as service:
        _, found = await posted(service, talk(assistant(), user()))
    assert "first message must use" in found["error"]["message"]


def test_our_files_are_documents_that_the_stand_in_takes() -> None:
    with AnthropicStandIn() as service:
        agent = AnthropicChatClient("m", base_url=service.base_url).create_agent()
        pdf = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7").decode()
        files = [FileContent(pdf, "a.pdf"), FileContent("data:text/markdown,%23%20Hi", "a.md")]
        agent.run_sync(ChatMessage("user", contents=[TextContent("Read."), *files]))
        assert service.refused == []
