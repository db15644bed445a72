"""Telemetry: what OpenTelemetry is told of runs, with a real SDK; and that nobody pays for it who has none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind, StatusCode

from holdfast import (
    ChatMessage,
    ImageContent,
    Limits,
    MemoryStore,
    ModelCallContext,
    OpenAIChatClient,
    RateLimitError,
    RunCancelledError,
    RunContext,
    RunTimeoutError,
    ServiceUnavailableError,
    ThreadStore,
    ToolError,
    Usage,
    UsageUpdate,
    tool,
)
from holdfast.engine.middleware import NOTHING_AROUND, Around
from holdfast.engine.spans import _SECONDS, _SECONDS_OF_RUNS, _TOKENS
from holdfast.engine.telemetry import watched
from holdfast.testing.openai_chat import ChatCompletionsStandIn
from holdfast.testing.scripted import ScriptedChatClient, calling

both = pytest.mark.parametrize("streamed", [False, True])
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Told:
    """What a program's providers were told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("a program of its own")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """In the order in which they ended."""
        return self._exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def only(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def above(self, span: ReadableSpan) -> str | None:
        """The name of a span's parent."""
        if span.parent is None:
            return None
        names = {other.context.span_id: other.name for other in self.spans if other.context is not None}
        return names[span.parent.span_id]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return [point for metric in found for point in metric.data.data_points]

    def everything(self) -> str:
        """All that was told, as it leaves the process."""
        data = self._reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + (data.to_json() if data is not None else "")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Providers as a program sets them up; afterwards there are none again, for the tests of everything else."""
    told = Told()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", told.tracers)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", told.meters)
    monkeypatch.delenv(CONTENT, raising=False)
    yield told
    told.tracers.shutdown()
    told.meters.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


async def said(agent: Any, text: str, thread: Any, *, streamed: bool = False, **options: Any) -> Any:
    if not streamed:
        return await agent.run(text, thread=thread, **options)
    stream = agent.run_stream(text, thread=thread, **options)
    async for _ in stream:
        pass
    return await stream.response()


# --- a turn ---------------------------------------------------------------------------------------------------------


@both
async def test_a_turn_with_a_tool_is_a_run_two_questions_and_a_call(
    store: ThreadStore, told: Told, streamed: bool
) -> None:
    first = UsageUpdate(usage=Usage(10, 2, 12, cached_tokens=8))
    client = ScriptedChatClient(
        [*calling(("get_weather", {"city": "Rome"})), first], ["It is ", "sunny.", UsageUpdate(usage=Usage(20, 3, 23))]
    )
    agent = client.create_agent(
        "Be brief.", name="Weather", tools=[get_weather], thread_store=store, temperature=0.5, model="large"
    )
    thread = agent.get_new_thread()
    response = await said(agent, "x", thread, streamed=streamed)
    assert told.names == ["chat large", "execute_tool get_weather", "chat large", "invoke_agent Weather"]
    assert [told.above(span) for span in told.spans] == ["invoke_agent Weather"] * 3 + [None]
    assert all(span.status.status_code is StatusCode.UNSET for span in told.spans)
    asked, called, _, run = told.spans
    assert [span.kind for span in (asked, called, run)] == [SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.INTERNAL]
    seconds = attributes(asked).pop("gen_ai.response.time_to_first_chunk", None)
    assert (seconds is not None and seconds >= 0) == streamed
    common = {
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "large",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.conversation.id": thread.id,
        "gen_ai.agent.name": "Weather",
    }
    told_of = attributes(asked)
    told_of.pop("gen_ai.response.time_to_first_chunk", None)
    assert told_of == {
        **common,
        **({"gen_ai.request.stream": True} if streamed else {}),
        "gen_ai.operation.name": "chat",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.id": "r1",
        "gen_ai.response.model": "scripted-model",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 8,
    }
    assert attributes(called) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "get_weather",
        "gen_ai.tool.call.id": "c0",
        "gen_ai.tool.type": "function",
        "gen_ai.conversation.id": thread.id,
        "gen_ai.agent.name": "Weather",
    }
    assert attributes(run) == {
        **common,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": agent.id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "holdfast.turn.id": response.turn_id,
        "holdfast.run.status": "completed",
    }


@both
async def test_what_is_measured(told: Told, streamed: bool) -> None:
    asks = [*calling(("get_weather", {"city": "Rome"})), UsageUpdate(usage=Usage(10, 2, 12))]
    client = ScriptedChatClient(asks, ["ok", UsageUpdate(usage=Usage(20, 3, 23))])
    agent = client.create_agent(name="Weather", tools=[get_weather], model="large")
    await said(agent, "x", agent.get_new_thread(), streamed=streamed)
    asked = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "large",
        "gen_ai.response.model": "scripted-model",
    }
    (point,) = told.points("gen_ai.client.operation.duration")
    assert (point.count, dict(point.attributes), list(point.explicit_bounds)) == (2, asked, _SECONDS)
    tokens = told.points("gen_ai.client.token.usage")
    assert {point.attributes["gen_ai.token.type"]: (point.count, point.sum) for point in tokens} == {
        "input": (2, 30),
        "output": (2, 5),
    }
    assert list(tokens[0].explicit_bounds) == _TOKENS
    (point,) = told.points("gen_ai.invoke_agent.duration")
    assert dict(point.attributes) == {"gen_ai.agent.name": "Weather", "gen_ai.request.model": "large"}
    assert list(point.explicit_bounds) == _SECONDS_OF_RUNS
    (point,) = told.points("gen_ai.execute_tool.duration")
    assert point.attributes["gen_ai.tool.name"] == "get_weather"
    first = told.points("gen_ai.client.operation.time_to_first_chunk")
    assert [point.count for point in first] == ([2] if streamed else [])


def test_the_boundaries_are_those_of_the_conventions() -> None:
    assert _SECONDS == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
    assert _SECONDS_OF_RUNS == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6]
    assert _TOKENS[:3] == [1, 4, 16]
    assert _TOKENS[-1] == 67108864


async def test_every_attribute_is_of_the_conventions_or_ours(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTENT, "true")
    published = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    published |= {"server.address", "server.port", "error.type"}
    ours = {"holdfast.turn.id", "holdfast.run.status"}
    counted = UsageUpdate(usage=Usage(1, 2, 3, 4, 5, 6))
    options: dict[str, Any] = {"stop": ["a"], "seed": 1, "top_p": 0.5, "max_tokens": 9}
    options |= {"presence_penalty": 0.1, "frequency_penalty": 0.1, "response_format": {"type": "object"}}
    client = ScriptedChatClient([*calling(("get_weather", {"city": "Rome"})), counted], ['{"a": 1}', counted])
    agent = client.create_agent("Be brief.", name="Weather", tools=[get_weather], **options)
    await said(agent, "x", agent.get_new_thread(), streamed=True)
    with pytest.raises(RateLimitError):
        await ScriptedChatClient([RateLimitError("no")]).create_agent().run("x")
    seen = {name for span in told.spans for name in attributes(span)}
    assert seen <= published | ours
    assert ours <= seen


async def test_the_service_and_its_address(told: Told) -> None:
    with ChatCompletionsStandIn() as service:
        client = OpenAIChatClient("gpt-4o-mini", base_url=service.base_url, api_key="sk-secret-key")
        await client.create_agent().run("x")
        await client.aclose()
    assert told.names == ["chat gpt-4o-mini", "invoke_agent"]
    for span in told.spans:
        about = attributes(span)
        assert about["gen_ai.provider.name"] == "openai"
        assert f"http://{about['server.address']}:{about['server.port']}" == client.address
        assert about["gen_ai.request.model"] == "gpt-4o-mini"
    assert "sk-secret-key" not in told.everything()


async def test_azure_is_called_what_the_conventions_call_it(told: Told) -> None:
    await ScriptedChatClient("hello", service="azure-openai").create_agent().run("x")
    assert {attributes(span)["gen_ai.provider.name"] for span in told.spans} == {"azure.ai.openai"}


# --- where spans hang -----------------------------------------------------------------------------------------------


@both
async def test_a_run_hangs_below_the_span_of_its_caller_which_stays_the_current_one(
    store: ThreadStore, told: Told, streamed: bool
) -> None:
    client = ScriptedChatClient(calling(("get_weather", {"city": "Rome"})), ["It ", "is ", "sunny."])
    agent = client.create_agent(tools=[get_weather], thread_store=store)
    thread = agent.get_new_thread()
    with told.tracer.start_as_current_span("request") as request:
        if streamed:
            async for _ in agent.run_stream("x", thread=thread):
                assert trace.get_current_span() is request
        else:
            await agent.run("x", thread=thread)
        assert trace.get_current_span() is request
    assert told.above(told.only("invoke_agent")) == "request"
    assert len({span.context.trace_id for span in told.spans if span.context is not None}) == 1


async def test_a_stream_that_is_read_by_one_task_after_another(told: Told) -> None:
    agent = ScriptedChatClient(["one ", "two ", "three"]).create_agent()
    stream = agent.run_stream("x", thread=agent.get_new_thread())
    pieces = []
    with suppress(StopAsyncIteration):
        while True:
            pieces.append((await asyncio.create_task(stream.__anext__())).text)
    assert "".join(pieces) == "one two three"
    assert told.names == ["chat", "invoke_agent"]


async def test_calls_at_once_have_their_own_spans_and_what_they_do_hangs_below(told: Told) -> None:
    @tool
    async def look_up(word: str) -> str:
        with told.tracer.start_as_current_span(f"query {word}"):
            await asyncio.sleep(0.01)
        return word

    @tool
    def in_a_thread(word: str) -> str:
        with told.tracer.start_as_current_span(f"blocking query {word}"):
            time.sleep(0.01)
        return word

    asks = calling(("look_up", {"word": "a"}), ("look_up", {"word": "b"}), ("in_a_thread", {"word": "c"}))
    agent = ScriptedChatClient(asks, "ok").create_agent(tools=[look_up, in_a_thread])
    await said(agent, "x", agent.get_new_thread(), streamed=True)
    for name, call_id in (("query a", "c0"), ("query b", "c1"), ("blocking query c", "c2")):
        query = told.only(name)
        (call,) = (
            span
            for span in told.spans
            if span.context is not None and query.parent is not None and span.context.span_id == query.parent.span_id
        )
        assert attributes(call)["gen_ai.tool.call.id"] == call_id
        assert told.above(call) == "invoke_agent"


async def test_an_agent_that_another_calls_hangs_below_the_call(store: ThreadStore, told: Told) -> None:
    lookup = calling(("get_weather", {"city": "Rome"}))
    expert = ScriptedChatClient(lookup, "sunny").create_agent(name="Expert", tools=[get_weather])
    asks = calling(("Expert", {"task": "Rome?"}))
    agent = ScriptedChatClient(asks, "It is sunny.").create_agent(
        name="Guide", tools=[expert.as_tool()], thread_store=store
    )
    thread = agent.get_new_thread()
    await said(agent, "x", thread, streamed=True)
    call, inner, outer = (
        told.only(name) for name in ("execute_tool Expert", "invoke_agent Expert", "invoke_agent Guide")
    )
    assert told.above(inner) == call.name
    assert told.above(call) == outer.name
    assert told.above(told.only("execute_tool get_weather")) == inner.name
    assert attributes(outer)["gen_ai.conversation.id"] == thread.id
    assert attributes(inner)["gen_ai.conversation.id"] != thread.id


async def test_our_spans_stand_around_the_middleware_of_callers(told: Told) -> None:
    async def other_model(context: ModelCallContext, call_next: Any) -> Any:
        context.options = replace(context.options, model="small")
        return await call_next(context)

    async def again(context: ModelCallContext, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except ServiceUnavailableError:
            return await call_next(context)

    client = ScriptedChatClient([ServiceUnavailableError("down")], "fine")
    agent = client.create_agent(middleware=[other_model, again], model="large")
    assert (await agent.run("x")).text == "fine"
    assert told.names == ["chat small", "invoke_agent"]
    asked = told.spans[0]
    assert attributes(asked)["gen_ai.request.model"] == "small"
    assert asked.status.status_code is StatusCode.UNSET


async def test_a_run_whose_state_is_emptied_goes_on(told: Told) -> None:
    async def empties(context: RunContext, call_next: Any) -> Any:
        context.state = {}
        return await call_next(context)

    client = ScriptedChatClient(calling(("get_weather", {"city": "Rome"})), "ok")
    assert (await client.create_agent(tools=[get_weather], middleware=[empties]).run("x")).text == "ok"
    assert told.names == ["execute_tool get_weather", "invoke_agent"]


@pytest.mark.parametrize("where", [RunContext, ModelCallContext])
async def test_an_answer_that_middleware_gives(told: Told, monkeypatch: pytest.MonkeyPatch, where: type) -> None:
    async def answers(context: Any, call_next: Any) -> Any:
        return "From the cache."

    monkeypatch.setenv(CONTENT, "true")
    answers.__annotations__["context"] = where
    agent = ScriptedChatClient("real").create_agent(middleware=[answers])
    assert (await agent.run("x")).text == "From the cache."
    run = attributes(told.only("invoke_agent"))
    assert run["holdfast.run.status"] == "completed"
    assert "From the cache." in run["gen_ai.output.messages"]


# --- how it ends ----------------------------------------------------------------------------------------------------


@both
async def test_an_error_of_the_service(store: ThreadStore, told: Told, streamed: bool) -> None:
    error = RateLimitError("Too many, said SECRET", service="x", status=429, request_id="req-1", service_code="slow")
    client = ScriptedChatClient(["half", error], "fine")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(RateLimitError):
        await said(agent, "x", thread, streamed=streamed)
    for span in told.spans:
        assert attributes(span)["error.type"] == "RateLimit"
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "status 429, code slow, request req-1"
    assert attributes(told.spans[-1])["holdfast.run.status"] == "failed"
    for name in ("gen_ai.client.operation.duration", "gen_ai.invoke_agent.duration"):
        assert [point.attributes["error.type"] for point in told.points(name)] == ["RateLimit"]
    assert "SECRET" not in told.everything()
    assert (await agent.run("y", thread=thread)).text == "fine"


async def test_tools_that_fail_are_not_the_runs_failure(told: Told) -> None:
    @tool
    def refuses() -> str:
        raise ToolError("Not with SECRET.")

    @tool
    async def breaks() -> str:
        raise LookupError("SECRET is not there")

    @tool(timeout=0.02)
    async def takes_long() -> str:
        await asyncio.sleep(60)
        return "never"

    asks = calling(("refuses", {}), ("breaks", {}), ("takes_long", {}))
    agent = ScriptedChatClient(asks, "sorry").create_agent(tools=[refuses, breaks, takes_long])
    response = await agent.run("x")
    assert "took longer" in response.messages[3].contents[0].result  # type: ignore[union-attr]
    found = {
        span.name: attributes(span)["error.type"] for span in told.spans if span.status.status_code is StatusCode.ERROR
    }
    assert found == {
        "execute_tool refuses": "ToolError",
        "execute_tool breaks": "LookupError",
        "execute_tool takes_long": "timeout",
    }
    assert attributes(told.only("invoke_agent"))["holdfast.run.status"] == "completed"
    assert "SECRET" not in told.everything()


@pytest.mark.parametrize("inside", ["answer", "tool"])
@pytest.mark.parametrize("how", ["close", "task", "thread"])
async def test_a_run_that_is_cancelled_is_no_error(store: ThreadStore, told: Told, how: str, inside: str) -> None:
    began = asyncio.Event()

    async def waits() -> str:
        began.set()
        await asyncio.Event().wait()
        return "never"

    script = ["half ", waits] if inside == "answer" else calling(("waits", {}), text="half ")
    agent = ScriptedChatClient(script).create_agent(tools=[waits], thread_store=store)
    thread = agent.get_new_thread()
    if how == "close" and inside == "answer":
        async with agent.run_stream("x", thread=thread) as stream:
            async for _ in stream:
                break
    elif how == "close":
        stream = agent.run_stream("x", thread=thread)
        task = asyncio.create_task(stream.response())
        await began.wait()
        await stream.cancel()
        with pytest.raises(RunCancelledError):
            await task
    else:
        task = asyncio.create_task(agent.run("x", thread=thread))
        await began.wait()
        if how == "task":
            task.cancel()
        else:
            await thread.cancel()
        with pytest.raises((asyncio.CancelledError, RunCancelledError)):
            await task
    # A tool is ended after the run has: it may need a while.
    assert told.names == ["chat", "invoke_agent", *(["execute_tool waits"] if inside == "tool" else [])]
    for span in told.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in attributes(span)
    assert attributes(told.only("invoke_agent"))["holdfast.run.status"] == "cancelled"


async def test_a_run_that_takes_too_long(told: Told) -> None:
    agent = ScriptedChatClient(["half", asyncio.Event().wait]).create_agent(timeout=0.05)
    with pytest.raises(RunTimeoutError):
        await agent.run("x")
    assert [attributes(span)["error.type"] for span in told.spans] == ["RunTimeout"] * 2


@both
async def test_a_run_that_waits_for_somebodys_word(store: ThreadStore, told: Told, streamed: bool) -> None:
    @tool(approval=True)
    def pay(amount: int) -> str:
        return "paid"

    agent = ScriptedChatClient(calling(("pay", {"amount": 1})), "done").create_agent(tools=[pay], thread_store=store)
    thread = agent.get_new_thread()
    waiting = await said(agent, "x", thread, streamed=streamed)
    assert told.names == ["chat", "invoke_agent"]
    assert attributes(told.spans[-1])["holdfast.run.status"] == "waiting"
    assert told.spans[-1].status.status_code is StatusCode.UNSET
    response = await agent.run([waiting.approvals[0].approve()], thread=thread)
    assert (response.text, response.turn_id) == ("done", waiting.turn_id)
    assert told.names[2:] == ["execute_tool pay", "chat", "invoke_agent"]
    runs = [attributes(span) for span in told.spans if span.name == "invoke_agent"]
    assert [run["holdfast.run.status"] for run in runs] == ["waiting", "completed"]
    assert len({run["holdfast.turn.id"] for run in runs}) == 1


@both
async def test_the_limit_of_calls_holds_while_somebody_watches(told: Told, streamed: bool) -> None:
    asks = calling(("get_weather", {"city": "Rome"}))
    client = ScriptedChatClient(asks, asks, "enough")
    agent = client.create_agent(tools=[get_weather], limits=Limits(tool_calls=1))
    await said(agent, "x", agent.get_new_thread(), streamed=streamed)
    assert [request.get("tool_choice") for request in client.requests] == [None, "none"]


# --- what is said ---------------------------------------------------------------------------------------------------

SECRETS = ("the-instructions", "the-question", "the-picture", "the-city", "the-weather", "the-answer")


async def a_talk_of_secrets(streamed: bool) -> Any:
    def look(city: str) -> str:
        return "the-weather"

    client = ScriptedChatClient("hm", calling(("look", {"city": "the-city"})), "the-answer")
    agent = client.create_agent("the-instructions", tools=[look])
    thread = agent.get_new_thread()
    await agent.run("the-question", thread=thread)
    picture = ChatMessage("user", [ImageContent("data:image/png;base64,dGhlLXBpY3R1cmU="), "and now?"])
    await said(agent, picture, thread, streamed=streamed)  # type: ignore[arg-type]
    return thread


@both
@pytest.mark.parametrize("setting", [None, "false", "NO_CONTENT", "EVENT_ONLY", "1"])
async def test_what_is_said_is_not_told(
    told: Told, monkeypatch: pytest.MonkeyPatch, streamed: bool, setting: str | None
) -> None:
    if setting is not None:
        monkeypatch.setenv(CONTENT, setting)
    await a_talk_of_secrets(streamed)
    everything = told.everything()
    assert len(told.spans) == 6
    assert not [secret for secret in SECRETS if secret in everything]


@both
@pytest.mark.parametrize("setting", ["true", "SPAN_ONLY", "span_and_event"])
async def test_what_is_said_is_told_on_demand(
    told: Told, monkeypatch: pytest.MonkeyPatch, streamed: bool, setting: str
) -> None:
    monkeypatch.setenv(CONTENT, setting)
    await a_talk_of_secrets(streamed)
    asked, called, last, run = (attributes(span) for span in told.spans[2:])
    assert json.loads(asked["gen_ai.system_instructions"]) == [{"type": "text", "content": "the-instructions"}]
    user = {"role": "user", "parts": [{"type": "text", "content": "the-question"}]}
    before = [user, {"role": "assistant", "parts": [{"type": "text", "content": "hm"}]}]
    blob = {"type": "blob", "mime_type": "image/png", "modality": "image", "content": ""}
    picture = {"role": "user", "parts": [blob, {"type": "text", "content": "and now?"}]}
    call = {"type": "tool_call", "id": "c0", "name": "look", "arguments": {"city": "the-city"}}
    result = {"type": "tool_call_response", "id": "c0", "response": "the-weather"}
    assert json.loads(asked["gen_ai.input.messages"]) == [*before, picture]
    (answer,) = json.loads(asked["gen_ai.output.messages"])
    assert answer["parts"] == [call]
    assert json.loads(called["gen_ai.tool.call.arguments"]) == {"city": "the-city"}
    assert called["gen_ai.tool.call.result"] == "the-weather"
    answered = {"role": "assistant", "parts": [call]}
    assert json.loads(last["gen_ai.input.messages"]) == [
        *before,
        *(picture, answered, {"role": "tool", "parts": [result]}),
    ]
    final = {"role": "assistant", "parts": [{"type": "text", "content": "the-answer"}], "finish_reason": "stop"}
    assert json.loads(last["gen_ai.output.messages"]) == [final]
    assert json.loads(run["gen_ai.input.messages"]) == [picture]
    assert json.loads(run["gen_ai.output.messages"])[-1] == final


# --- who has none ---------------------------------------------------------------------------------------------------


def test_without_a_provider_nothing_stands_around_a_run() -> None:
    async def something(context: RunContext, call_next: Any) -> Any:
        return await call_next(context)

    some = Around((something,))
    assert watched(NOTHING_AROUND) is NOTHING_AROUND
    assert watched(some) is some


def test_with_a_provider_ours_is_the_outermost(told: Told) -> None:
    async def something(context: RunContext, call_next: Any) -> Any:
        return await call_next(context)

    around = watched(Around((something,)))
    assert len(around.run) == 2
    assert around.run[1] is something
    assert watched(NOTHING_AROUND).tool == around.tool


async def test_a_provider_that_comes_later_is_told_of_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ScriptedChatClient("one", "two").create_agent(thread_store=MemoryStore())
    await agent.run("x")
    told = Told()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", told.tracers)
    await agent.run("x")
    assert told.names == ["chat", "invoke_agent"]


_ALONE = """
import asyncio, sys
{before}
from holdfast.testing.scripted import ScriptedChatClient, calling

def get_weather(city: str) -> str:
    return "sunny"

client = ScriptedChatClient(calling(("get_weather", {{"city": "Rome"}})), "ok")
assert asyncio.run(client.create_agent(tools=[get_weather]).run("x")).text == "ok"
print(" ".join(name for name in sys.modules if "opentelemetry" in name or "holdfast.engine.span" in name))
"""


def imported(before: str) -> set[str]:
    script = _ALONE.format(before=before)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_program_that_does_not_know_of_it_imports_nothing_of_it() -> None:
    assert imported("") == set()


def test_a_program_that_has_the_interface_alone_imports_nothing_more_of_it() -> None:
    loaded = imported("import opentelemetry.trace")
    assert "opentelemetry.trace" in loaded
    assert not {name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.metrics", "holdfast"))}
