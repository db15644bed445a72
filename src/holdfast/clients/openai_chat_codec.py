"""The codec of Chat Completions: messages to the bytes of a request, the JSON of an answer to updates.

Rule of this file: it is pure, and it gives the same bytes for the same message for ever. What would change them
changes the codec's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from holdfast.clients.openai_chat_parts import answered, asked, results
from holdfast.clients.openai_chat_wire import CallPart, Chunk, Part, Tokens, decode_chunk, loose_chunk
from holdfast.conversation.errors import ConfigurationError, InvalidInputError
from holdfast.conversation.messages import ChatMessage, TextContent
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    FinishUpdate,
    ReasoningUpdate,
    RefusalUpdate,
    ToolCallUpdate,
    Usage,
    UsageUpdate,
)
from holdfast.ports.clients import AnswerFormat, ChatOptions
from holdfast.ports.tools import ToolSpec

_DONE = b"[DONE]"
# Words of other servers for the reasons that holdfast knows. Any other word is passed on as it is.
_REASONS = {
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
}

# What ChatOptions and the service call by the same name, but for the length of an answer.
_OPTIONS = (
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "user",
)
# What is said of calls makes sense only where there are tools; the service refuses it elsewhere.
_CHOICES = ("auto", "none", "required")

_encode = msgspec.json.Encoder().encode


class ChatCompletionsCodec:
    """The bytes of a request: `head`, then each `message`, then `tail`. See `holdfast.ports.clients.Codec`."""

    __slots__ = ("_include_usage", "_model", "_names", "_role", "name")

    def __init__(
        self,
        model: str | None = None,
        *,
        instruction_role: str = "system",
        max_tokens_field: str = "max_completion_tokens",
        include_usage: bool = True,
    ) -> None:
        if instruction_role not in ("system", "developer"):
            raise ConfigurationError(f"instruction_role is 'system' or 'developer'; got {instruction_role!r}.")
        self._model = model
        self._role = instruction_role
        self._names = [(max_tokens_field if name == "max_tokens" else name, name) for name in _OPTIONS]
        self._include_usage = include_usage
        self.name = f"openai-chat/1/{instruction_role}"

    def head(self, instructions: str | None) -> bytes:
        if not instructions:
            return b'{"messages":['
        return b'{"messages":[' + _json({"role": self._role, "content": instructions}) + b","

    def message(self, message: ChatMessage) -> bytes:
        role = message.role
        parts = message.contents
        if role != "tool" and len(parts) == 1 and type(parts[0]) is TextContent and message.author_name is None:
            text = parts[0].text
            told: dict[str, Any] | None = {"role": role, "content": text} if text else None
            if told is not None and role == "system":
                told["role"] = self._role
        elif role == "tool":
            return b"".join([_json(result) + b"," for result in results(parts)])
        elif role == "assistant":
            told = answered(parts)
        else:
            told = asked(self._role if role == "system" else role, message)
        return _json(told) + b"," if told is not None else b""

    def tools(self, specs: Sequence[ToolSpec]) -> bytes:
        return _json([_told_tool(spec) for spec in specs])

    def tail(self, options: ChatOptions, *, stream: bool, tools: bytes = b"") -> bytes:
        model = options.model or self._model
        if not model:
            raise ConfigurationError(
                "No model is named: set OPENAI_CHAT_MODEL_ID, or pass model= to the client, the agent or the run."
            )
        fields: dict[str, Any] = {"model": model}
        for name, option in self._names:
            value = getattr(options, option)
            if value is not None:
                fields[name] = value
        if stream:
            fields["stream"] = True
            if self._include_usage:
                fields["stream_options"] = {"include_usage": True}
        if tools:
            fields["tools"] = msgspec.Raw(tools)
            fields.update(_choice(options))
        if options.answer_format is not None:
            fields["response_format"] = _told_format(options.answer_format)
        if options.extra:
            for name in ("messages", "stream"):
                if name in options.extra:
                    raise InvalidInputError(f"extra= cannot hold {name!r}: holdfast itself says that in every request.")
            fields.update(options.extra)
        for name, value in fields.items():
            if not isinstance(value, (str, int, msgspec.Raw)) and not (isinstance(value, float) and isfinite(value)):
                _check_numbers(name, value)
        return b"]," + _json(fields)[1:]


def _told_tool(spec: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    if spec.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _told_format(wanted: AnswerFormat) -> dict[str, Any]:
    told = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": told}


def _choice(options: ChatOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    choice = options.tool_choice
    if choice is not None:
        fields["tool_choice"] = choice if choice in _CHOICES else {"type": "function", "function": {"name": choice}}
    if options.parallel_tool_calls is not None and choice != "none":
        fields["parallel_tool_calls"] = options.parallel_tool_calls
    return fields


def _json(value: object) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInputError(f"This cannot be sent as JSON: {str(error)[:200]}") from None


def _check_numbers(name: str, value: object) -> None:
    """Refuse NaN and infinity: msgspec would write null, and the service would use its default."""
    if isinstance(value, float) and not isfinite(value):
        raise InvalidInputError(f"The option {name!r} holds {value!r}, which JSON cannot say; give it a finite number.")
    if isinstance(value, dict):
        for inner in value.values():
            _check_numbers(name, inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_numbers(name, inner)


class _Call:
    """A tool call that is coming in, and its place in the answer."""

    __slots__ = ("arguments", "call_id", "name", "place")

    def __init__(self, place: int) -> None:
        self.place = place
        self.call_id = ""
        self.name = ""
        self.arguments: list[str] = []

    def is_whole(self) -> bool:
        try:
            msgspec.json.decode("".join(self.arguments), type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class ChatCompletionsDecoder(Struct):
    """One answer. `chunks` takes the payloads of a stream, `whole` an answer in one piece.

    What went wrong is kept, not raised, so that what came before can be handed on first: `error` is the service's
    own error object, `broken` says why this is no answer, and `finished` that it came to its end.
    """

    finished: bool = False  # a reason to finish or [DONE] came: whatever is missing now is not part of the answer
    done: bool = False  # [DONE] came: nothing else will
    error: Any = None
    broken: str | None = None
    _told: bool = False  # who answers was handed on
    _began: bool = False  # something of a message came
    _calls: list[_Call] = []  # msgspec gives each its own
    _at: dict[int, _Call] = {}  # the latest call at each index that the service names

    def chunks(self, payloads: Iterable[bytes]) -> list[AgentRunResponseUpdate]:
        """The updates of the next payloads of a stream."""
        updates: list[AgentRunResponseUpdate] = []
        add = updates.append
        told = self._told
        decode = decode_chunk
        update = AgentRunResponseUpdate
        for payload in payloads:
            try:
                chunk = decode(payload)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                self._odd(payload, add)
                told = self._told
            else:
                choices = chunk.choices
                # The usual chunk, a piece of text and nothing else, is dealt with here; it is most of every answer.
                if told and choices and len(choices) == 1 and chunk.usage is None and chunk.error is None:
                    choice = choices[0]
                    part = choice.delta
                    if part is not None and choice.finish_reason is None and not choice.index:
                        text = part.content
                        if (
                            text
                            and not part.tool_calls
                            and not part.reasoning_content
                            and not part.reasoning
                            and not part.refusal
                            and part.function_call is None
                        ):
                            add(update(text))
                            continue
                self._take(chunk, payload, add)
                told = self._told
            if self.done or self.error is not None or self.broken is not None:
                break
        return updates

    def whole(self, body: bytes) -> list[AgentRunResponseUpdate]:
        """The updates of an answer that came in one piece."""
        updates: list[AgentRunResponseUpdate] = []
        try:
            chunk = decode_chunk(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self._odd(body, updates.append)
        else:
            self._take(chunk, body, updates.append)
        if not self.finished and self.error is None and self.broken is None:
            self._make_up_reason(updates.append)
        return updates

    def _make_up_reason(self, add: Callable[[AgentRunResponseUpdate], None]) -> None:
        """The answer is complete, whether or not the service said why it ended."""
        if self.finished:
            return
        self.finished = True
        if self._began:
            add(FinishUpdate(finish_reason="tool_calls" if self._calls else "stop"))
        else:
            self.broken = "an answer without a message"

    def _odd(self, payload: bytes, add: Callable[[AgentRunResponseUpdate], None]) -> None:
        """What is not as documented."""
        if payload.strip() == _DONE:
            self.done = True
            self._make_up_reason(add)
            return
        try:
            chunk = loose_chunk(payload)
        except ValueError:
            self.broken = "something that is no JSON"
            return
        if chunk is not None:
            self._take(chunk, None, add)

    def _take(self, chunk: Chunk, payload: bytes | None, add: Callable[[AgentRunResponseUpdate], None]) -> None:
        if chunk.error:
            self.error = chunk.error
            return
        if chunk.choices is None and chunk.usage is None and payload is not None:
            self._odd(payload, add)  # JSON, but perhaps an error in another form
            return
        if not self._told and (chunk.id or chunk.model):
            self._told = True
            add(FinishUpdate(model=chunk.model or None, response_id=chunk.id or None))
        for choice in chunk.choices or ():
            if choice.index:
                continue  # one answer was asked for
            part = choice.delta or choice.message
            if part is not None:
                self._began = self._told = True
                self._part(part, add)
            if choice.finish_reason:
                self.finished = True
                add(FinishUpdate(finish_reason=_REASONS.get(choice.finish_reason, choice.finish_reason)))
        if chunk.usage is not None:
            add(UsageUpdate(usage=_usage(chunk.usage)))

    def _part(self, part: Part, add: Callable[[AgentRunResponseUpdate], None]) -> None:
        thought = part.reasoning_content or part.reasoning  # some servers send both, and both the same
        if thought:
            add(ReasoningUpdate(reasoning=thought))
        if part.content:
            add(AgentRunResponseUpdate(part.content))
        if part.refusal:
            add(RefusalUpdate(refusal=part.refusal))
        if part.tool_calls:
            together: list[_Call] = []
            for piece in part.tool_calls:
                together.append(self._call(piece, together, add))
        elif part.function_call is not None:
            self._call(CallPart(0, None, part.function_call), [], add)

    def _call(self, piece: CallPart, together: list[_Call], add: Callable[[AgentRunResponseUpdate], None]) -> _Call:
        """One piece of a tool call. `together` are the calls that came beside it in the same chunk."""
        call_id = piece.id or ""
        name = (piece.function.name if piece.function else None) or ""
        arguments = (piece.function.arguments if piece.function else None) or ""
        call = self._meant(piece.index, call_id, name, together)
        if call is None:
            call = _Call(len(self._calls))
            self._calls.append(call)
        if piece.index is not None:
            self._at[piece.index] = call
        # Some servers repeat the id and the name with every piece.
        new_id = "" if call.call_id else call_id
        new_name = "" if call.name else name
        call.call_id = call.call_id or call_id
        call.name = call.name or name
        call.arguments.append(arguments)
        if new_id or new_name or arguments:
            add(ToolCallUpdate(index=call.place, call_id=new_id, name=new_name, arguments=arguments))
        return call

    def _meant(self, index: int | None, call_id: str, name: str, together: list[_Call]) -> _Call | None:
        """The call that a piece belongs to, or None if it begins a new one.

        As documented, the index tells. But some servers send none, or 0 for every call, and each call whole.
        """
        if index is not None:
            call = self._at.get(index)
        elif together:
            return None
        else:
            call = self._calls[-1] if self._calls else None
        if call is None or (call_id and call.call_id and call_id != call.call_id):
            return None
        if name and call.name and not call_id and call.is_whole():
            return None
        return call


def _usage(tokens: Tokens) -> Usage:
    asked, said = tokens.prompt_tokens_details, tokens.completion_tokens_details
    input_tokens, output_tokens = tokens.prompt_tokens or 0, tokens.completion_tokens or 0
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=tokens.total_tokens or input_tokens + output_tokens,
        cached_tokens=(asked.cached_tokens or 0) if asked else 0,
        cache_write_tokens=(asked.cache_write_tokens or 0) if asked else 0,
        reasoning_tokens=(said.reasoning_tokens or 0) if said else 0,
    )
