"""The codec of Anthropic's Messages: our messages to the bytes of a request.

Rule of this file: it is pure, and it gives the same bytes for the same message for ever. What would change them
changes the codec's name.

The service joins neighbours of one role itself, so every message of ours is one of its own: results of tools are
messages of the user, and so are instructions in the middle of a conversation, in a form that says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec

from holdfast.clients.anthropic_endpoints import SAMPLING
from holdfast.clients.anthropic_parts import answered, asked, instructed, results
from holdfast.clients.anthropic_schemas import taken_schema
from holdfast.conversation.errors import ConfigurationError, InvalidInputError
from holdfast.conversation.messages import ChatMessage, TextContent
from holdfast.ports.clients import ChatOptions
from holdfast.ports.tools import ToolSpec

CACHES = ("5m", "1h")
_UNKNOWN = ("seed", "presence_penalty", "frequency_penalty")
_SAMPLED = ("temperature", "top_p")
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_OURS = ("messages", "stream", "system")

_encode = msgspec.json.Encoder().encode


class AnthropicCodec:
    """The bytes of a request: `head`, then each `message`, then `tail`. See `holdfast.ports.clients.Codec`.

    `cache` is how long the service is to keep what it has read ("5m" or "1h"), None for not at all. `version` is the
    interface's: only the older one knows how to sample.
    """

    __slots__ = ("_cache", "_max_tokens", "_model", "_version", "name")

    def __init__(self, model: str | None, *, max_tokens: int, cache: str | None, version: str) -> None:
        if cache is not None and cache not in CACHES:
            raise ConfigurationError(f"cache is one of {', '.join(CACHES)}, or None for no cache; got {cache!r}.")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ConfigurationError(f"max_tokens is a whole number above 0; got {max_tokens!r}.")
        self._model = model
        self._max_tokens = max_tokens
        self._cache = cache
        self._version = version
        self.name = "anthropic/1"

    def head(self, instructions: str | None) -> bytes:
        # The blank at the end is the byte that `tail` replaces where there is no message.
        if not instructions or not instructions.strip():
            return b'{"messages":[ '
        return b'{"system":' + _json(instructions) + b',"messages":[ '

    def message(self, message: ChatMessage) -> bytes:
        role, parts = message.role, message.contents
        told: object
        if role in ("user", "assistant") and len(parts) == 1 and type(parts[0]) is TextContent:
            text = parts[0].text
            told = text if text.strip() else None
        elif role == "assistant":
            told = answered(parts)
        elif role == "tool":
            told = results(parts)
        elif role == "system":
            told = instructed(parts)
        else:
            told = asked(role, parts)
        if not told:
            return b""
        return _json({"role": "assistant" if role == "assistant" else "user", "content": told}) + b","

    def tools(self, specs: Sequence[ToolSpec]) -> bytes:
        return _json([_told_tool(spec) for spec in specs])

    def tail(self, options: ChatOptions, *, stream: bool, tools: bytes = b"") -> bytes:
        model = options.model or self._model
        if not model:
            raise ConfigurationError(
                "No model is named: set ANTHROPIC_CHAT_MODEL_ID, or pass model= to the client, the agent or the run."
            )
        most = self._max_tokens if options.max_tokens is None else options.max_tokens
        fields: dict[str, Any] = {"model": model, "max_tokens": most}
        self._sampled(options, fields)
        if options.stop is not None:
            fields["stop_sequences"] = [options.stop] if isinstance(options.stop, str) else list(options.stop)
        if options.user is not None:
            fields["metadata"] = {"user_id": options.user}
        if stream:
            fields["stream"] = True
        if tools:
            fields["tools"] = msgspec.Raw(tools)
            fields.update(_choice(options))
        output = _output(options)
        if output:
            fields["output_config"] = output
        if self._cache is not None:
            fields["cache_control"] = {"type": "ephemeral", **({"ttl": self._cache} if self._cache != "5m" else {})}
        if options.extra:
            _add(fields, options.extra)
        _check_numbers(fields)
        return b"]," + _json(fields)[1:]

    def _sampled(self, options: ChatOptions, fields: dict[str, Any]) -> None:
        """What says how the model samples; refused in words where this service or this version knows nothing of it."""
        for name in _UNKNOWN:
            if getattr(options, name) is not None:
                raise InvalidInputError(f"Anthropic's Messages know no option {name!r}; leave it out for this service.")
        for name in _SAMPLED:
            value = getattr(options, name)
            if value is None:
                continue
            if self._version != SAMPLING:
                raise InvalidInputError(
                    f"Anthropic's Messages know no {name!r} since version {self._version}. Leave it out, or make the "
                    f"client with version={SAMPLING!r}, for the models that still take it."
                )
            fields[name] = value


def _told_tool(spec: ToolSpec) -> dict[str, Any]:
    tool: dict[str, Any] = {"name": spec.name}
    if spec.description:
        tool["description"] = spec.description
    tool["input_schema"] = spec.parameters if "type" in spec.parameters else {"type": "object", **spec.parameters}
    if spec.strict:
        tool["strict"] = True
    return tool


def _choice(options: ChatOptions) -> dict[str, Any]:
    choice = options.tool_choice
    if choice is None and options.parallel_tool_calls is None:
        return {}
    kind = _CHOICES.get(choice or "auto")
    told: dict[str, Any] = {"type": kind} if kind else {"type": "tool", "name": choice}
    if options.parallel_tool_calls is not None and kind != "none":
        told["disable_parallel_tool_use"] = not options.parallel_tool_calls
    return {"tool_choice": told}


def _output(options: ChatOptions) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if options.reasoning_effort is not None:
        told["effort"] = options.reasoning_effort
    if options.answer_format is not None:
        told["format"] = {"type": "json_schema", "schema": taken_schema(options.answer_format.schema)}
    return told


def _add(fields: dict[str, Any], extra: Mapping[str, Any]) -> None:
    """What only this service knows. Its output_config goes beside ours, member by member."""
    for name, value in extra.items():
        if name in _OURS:
            raise InvalidInputError(f"extra= cannot hold {name!r}: holdfast itself says that in every request.")
        known = fields.get(name)
        if name == "output_config" and isinstance(known, dict) and isinstance(value, Mapping):
            value = {**known, **value}
        fields[name] = value


def _json(value: object) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInputError(f"This cannot be sent as JSON: {str(error)[:200]}") from None


def _check_numbers(value: object, name: str = "") -> None:
    """Refuse NaN and infinity: msgspec would write null, and the service would use its default."""
    if isinstance(value, float) and not isfinite(value):
        raise InvalidInputError(f"The option {name!r} holds {value!r}, which JSON cannot say; give it a finite number.")
    if isinstance(value, Mapping):
        for inner_name, inner in value.items():
            _check_numbers(inner, name or str(inner_name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_numbers(inner, name)
