"""Spans and measurements of runs, questions to the model and tool calls, by OpenTelemetry's conventions for
generative AI: `invoke_agent {agent}`, `chat {model}`, `execute_tool {tool}`.

Rule of this file: it watches, and changes nothing. A parent is named, never made current where somebody's code goes
on between two updates; only a tool call, which has a task of its own, sees its span as the current one. What users,
models and tools say is told only if the environment asks for it (see `span_content`), and a key never.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import Histogram, MeterProvider, get_meter_provider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer_provider
from opentelemetry.trace.propagation import set_span_in_context

from holdfast import __version__
from holdfast.conversation.errors import HoldfastError, ServiceError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import Usage, sound
from holdfast.engine import span_content as content
from holdfast.engine.endings import status_after
from holdfast.engine.middleware import Around, ModelCallContext, RunContext, ToolCallContext
from holdfast.engine.responses import AgentRunResponse
from holdfast.ports.clients import ChatOptions
from holdfast.ports.tools import ToolAnswer

Attributes: TypeAlias = dict[str, Any]
CallNext: TypeAlias = Callable[[Any], Awaitable[Any]]

# Our names for services where the conventions have another.
_PROVIDERS = {"azure-openai": "azure.ai.openai"}
# Under this name a run's context keeps what its questions and calls are to know of its span.
_KEPT = "holdfast.telemetry"

# The boundaries that the conventions recommend.
_SECONDS = [0.01 * 2**power for power in range(14)]
_SECONDS_OF_RUNS = [0.1 * 2**power for power in range(13)]
_TOKENS = [4**power for power in range(14)]

_OF_QUESTIONS = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model")
_SERVER = ("server.address", "server.port")


class _Kind:
    """A kind of operation: what it is called, where its durations go, and what is said with them."""

    def __init__(self, name: str, kind: SpanKind, durations: Histogram, measured: Sequence[str]) -> None:
        self.name = name
        self.kind = kind
        self.durations = durations
        self.measured = (*measured, "error.type")


class _Operation:
    """One operation that is watched."""

    def __init__(self, kind: _Kind, span: Span, about: Attributes, parent: Context | None) -> None:
        self._kind = kind
        self._about = about
        self.span = span
        self.context = set_span_in_context(span, parent)
        # What a cancellation is called that nobody wished for.
        self.cut_off_by: str | None = None

    @property
    def measured(self) -> Attributes:
        """What is said with a measurement of it."""
        return {name: self._about[name] for name in self._kind.measured if name in self._about}

    def tell(self, about: Mapping[str, Any]) -> None:
        """Say more of it; what is None is not said."""
        known = {name: value for name, value in about.items() if value is not None}
        self._about.update(known)
        self.span.set_attributes(known)

    def failed(self, error: BaseException) -> None:
        """It has raised. That somebody wished it to stop is no error."""
        if status_after(error) != "failed" and self.cut_off_by is None:
            return
        code = error.code if isinstance(error, HoldfastError) else type(error).__qualname__
        self.tell({"error.type": self.cut_off_by or code})
        self.span.set_status(Status(StatusCode.ERROR, _described(error)))


class _Run:
    """What the questions and calls of a run are to know, and what they add up to."""

    def __init__(self, operation: _Operation, about: Attributes) -> None:
        self.context = operation.context
        self.about = about
        self.tells_content = operation.span.is_recording() and content.is_content_told()
        self.usage: Usage | None = None
        self.finish_reason: str | None = None


class Watch:
    """Our middleware, which tells one pair of providers of all that it is put around."""

    def __init__(self, tracers: TracerProvider | None, meters: MeterProvider | None) -> None:
        self.tracers, self.meters = tracers, meters
        self._tracer = (tracers or get_tracer_provider()).get_tracer("holdfast", __version__)
        meter = (meters or get_meter_provider()).get_meter("holdfast", __version__)

        def histogram(name: str, unit: str, what: str, boundaries: Sequence[float]) -> Histogram:
            return meter.create_histogram(name, unit, what, explicit_bucket_boundaries_advisory=boundaries)

        runs = histogram("gen_ai.invoke_agent.duration", "s", "Duration of a run.", _SECONDS_OF_RUNS)
        questions = histogram("gen_ai.client.operation.duration", "s", "GenAI operation duration.", _SECONDS)
        calls = histogram("gen_ai.execute_tool.duration", "s", "Duration of a tool call.", _SECONDS)
        self._tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", _TOKENS
        )
        self._first = histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.", _SECONDS
        )
        self._runs = _Kind("invoke_agent", SpanKind.INTERNAL, runs, ("gen_ai.agent.name", "gen_ai.request.model"))
        self._questions = _Kind("chat", SpanKind.CLIENT, questions, (*_OF_QUESTIONS, *_SERVER))
        self._calls = _Kind(
            "execute_tool", SpanKind.INTERNAL, calls, ("gen_ai.tool.name", "gen_ai.tool.type", "gen_ai.agent.name")
        )
        self.around = Around((self._run,), (self._question,), (self._call,))

    @contextmanager
    def _operation(
        self, kind: _Kind, subject: str | None, about: Attributes, parent: Context | None = None
    ) -> Iterator[_Operation]:
        about = {"gen_ai.operation.name": kind.name, **about}
        name = f"{kind.name} {subject}" if subject else kind.name
        span = self._tracer.start_span(name, parent, kind.kind, about)
        operation = _Operation(kind, span, about, parent)
        began = time.perf_counter()
        try:
            yield operation
        except BaseException as error:
            operation.failed(error)
            raise
        finally:
            kind.durations.record(time.perf_counter() - began, operation.measured, operation.context)
            span.end()

    # --- what it is put around ----------------------------------------------------------------------------------

    async def _run(self, context: RunContext, call_next: CallNext) -> Any:
        about = _about_run(context)
        more = {"gen_ai.agent.id": context.agent_id or None, "holdfast.turn.id": context.turn_id}
        with self._operation(self._runs, context.agent, {**about, **_known(more)}) as operation:
            kept = context.state[_KEPT] = _Run(operation, about)
            status, result = "cancelled", None
            try:
                result = await call_next(context)
                is_waiting = isinstance(result, AgentRunResponse) and result.status == "waiting"
                status = "waiting" if is_waiting else "completed"
                return result
            except BaseException as error:
                status = status_after(error)
                raise
            finally:
                operation.tell({**_asked(context.options), **_counted(kept), "holdfast.run.status": status})
                if kept.tells_content:
                    operation.tell(_said(context, context.messages, _messages(result), kept.finish_reason))

    async def _question(self, context: ModelCallContext, call_next: CallNext) -> Any:
        run, kept = context.run, context.run.state.get(_KEPT)
        if kept is None:  # somebody has emptied it
            return await call_next(context)
        model = context.options.model or kept.about.get("gen_ai.request.model")
        about = {**kept.about, **_known({"gen_ai.request.model": model})}
        with self._operation(self._questions, model, about, kept.context) as operation:
            before = await _history(run) if kept.tells_content else ()
            result = None
            try:
                result = await call_next(context)
                return result
            finally:
                if context.options.model not in (None, model):  # middleware has chosen another
                    operation.span.update_name(f"chat {context.options.model}")
                self._tell_answer(operation, context, kept)
                if kept.tells_content:
                    messages = [*before, *context.messages]
                    operation.tell(_said(run, messages, _messages(result), context.finish_reason))

    def _tell_answer(self, operation: _Operation, context: ModelCallContext, kept: _Run) -> None:
        stream, seconds, usage = context.run.stream, context.seconds_to_first, context.usage
        ended = context.finish_reason
        operation.tell(
            {
                **_asked(context.options),
                **_used(usage),
                "gen_ai.request.stream": stream or None,
                "gen_ai.response.finish_reasons": [ended] if ended else None,
                "gen_ai.response.id": context.response_id,
                "gen_ai.response.model": context.model,
                "gen_ai.response.time_to_first_chunk": seconds if stream else None,
            }
        )
        kept.finish_reason = ended
        measured = operation.measured
        if stream and seconds is not None:
            self._first.record(seconds, measured, operation.context)
        if usage is not None:
            kept.usage = usage if kept.usage is None else kept.usage + usage
            self._tokens.record(usage.input_tokens, {**measured, "gen_ai.token.type": "input"}, operation.context)
            self._tokens.record(usage.output_tokens, {**measured, "gen_ai.token.type": "output"}, operation.context)

    async def _call(self, context: ToolCallContext, call_next: CallNext) -> Any:
        kept = context.run.state.get(_KEPT) if context.run is not None else None
        about = {
            "gen_ai.tool.name": context.tool,
            "gen_ai.tool.call.id": context.call_id,
            "gen_ai.tool.type": "function",
            "gen_ai.conversation.id": context.context.thread_id,
            "gen_ai.agent.name": context.run.agent if context.run is not None else None,
        }
        with self._operation(self._calls, context.tool, _known(about), kept and kept.context) as operation:
            result = None
            token = attach(set_span_in_context(operation.span))  # the call has a task of its own
            try:
                result = await call_next(context)
                return result
            except asyncio.CancelledError:
                if not context.context.cancelled:  # nobody has ended the run
                    operation.cut_off_by = _cut_off_by()
                raise
            finally:
                detach(token)
                if kept is not None and kept.tells_content:
                    operation.tell(_called(context.arguments, result))


# --- what is said of them ---------------------------------------------------------------------------------------------


def _known(about: Mapping[str, Any]) -> Attributes:
    return {name: value for name, value in about.items() if value is not None}


def _about_run(context: RunContext) -> Attributes:
    """What a run and its questions have in common, and whoever samples wants to know at once."""
    model = context.options.model or context.model
    return _known(
        {
            "gen_ai.provider.name": _PROVIDERS.get(context.service, context.service),
            "gen_ai.request.model": model if isinstance(model, str) else None,
            "gen_ai.conversation.id": context.thread_id,
            "gen_ai.agent.name": context.agent,
            **(_server(context.address) if isinstance(context.address, str) else {}),
        }
    )


@lru_cache(maxsize=64)
def _server(address: str) -> Mapping[str, Any]:
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # a client of somebody's own may have any address
        return {}
    return {"server.address": parts.hostname, "server.port": port} if parts.hostname else {}


def _asked(options: ChatOptions) -> Attributes:
    """What was asked of the model."""
    stop = options.stop
    return {
        "gen_ai.request.model": options.model,
        "gen_ai.request.temperature": options.temperature,
        "gen_ai.request.top_p": options.top_p,
        "gen_ai.request.max_tokens": options.max_tokens,
        "gen_ai.request.stop_sequences": [stop] if isinstance(stop, str) else stop and list(stop),
        "gen_ai.request.seed": options.seed,
        "gen_ai.request.presence_penalty": options.presence_penalty,
        "gen_ai.request.frequency_penalty": options.frequency_penalty,
        "gen_ai.output.type": None if options.answer_format is None else "json",
    }


def _used(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
    }


def _counted(kept: _Run) -> Attributes:
    ended = kept.finish_reason
    return {**_used(kept.usage), "gen_ai.response.finish_reasons": [ended] if ended else None}


def _described(error: BaseException) -> str | None:
    """What may be said of an error beside its type. Its message may hold what users and models have said."""
    if not isinstance(error, ServiceError):
        return None
    facts = (("status", error.status), ("code", error.service_code), ("request", error.request_id))
    return ", ".join(f"{name} {fact}" for name, fact in facts if fact) or None


def _cut_off_by() -> str:
    task = asyncio.current_task()
    return "timeout" if task is not None and task.cancelling() else "CancelledError"


# --- what users, models and tools say -------------------------------------------------------------------------------


def _said(
    run: RunContext, messages: Sequence[ChatMessage], answers: Sequence[ChatMessage], finish_reason: str | None
) -> Attributes:
    return {
        "gen_ai.system_instructions": content.instructions_told(run.instructions) if run.instructions else None,
        "gen_ai.input.messages": content.input_told(messages),
        "gen_ai.output.messages": content.output_told(answers, finish_reason) if answers else None,
    }


def _called(arguments: str, result: Any) -> Attributes:
    text = result.text if isinstance(result, ToolAnswer) else result
    return {
        "gen_ai.tool.call.arguments": sound(arguments),
        "gen_ai.tool.call.result": None if text is None else sound(str(text)),
    }


async def _history(run: RunContext) -> Sequence[ChatMessage]:
    """The conversation before this turn. Whether it can be read is for the question itself to find out."""
    with suppress(HoldfastError):
        return await run.history()
    return ()


def _messages(result: Any) -> Sequence[ChatMessage]:
    """The messages of what middleware or the model has answered."""
    if isinstance(result, AgentRunResponse):
        return result.messages
    if isinstance(result, str):
        return (ChatMessage("assistant", text=sound(result)),)
    return (result,) if isinstance(result, ChatMessage) else ()
