"""What the stand-in for Chat Completions can be told to answer.

    Say("Ahoy!")                                   a text
    Say("Ahoy!", pieces=["A", "hoy!"], delay=0.1)  streamed in these pieces, so many seconds apart
    Say("Ahoy", finish_reason="length")            a text that was cut off by a limit
    CallTools([("weather", {"city": "Oslo"})])     calls of tools
    Refuse("I will not.")                          the model declines
    Fail(429, headers={"retry-after": "1"})        an error instead of an answer
    FailInStream(after=3)                          an error in the middle of a stream that began with 200

Around any of them: CutStream, BrokenJSON and Hang of `standin_tapes`.

Rule of this file: frozen data with no I/O; how it looks on the wire is in `openai_chat_rendering`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from holdfast.testing.openai_chat_messages import estimated_tokens, text_of
from holdfast.testing.standin_tapes import Answer

Sloppy: TypeAlias = Literal[
    "batched",
    "comments",
    "crlf",
    "empty_choices",
    "empty_tool_ids",
    "json_for_stream",
    "no_done",
    "no_finish",
    "no_role",
    "no_space",
    "no_tool_index",
    "null_content",
    "stream_for_json",
    "torn",
    "usage_everywhere",
    "usage_on_content",
    "usage_on_finish",
    "zero_tool_index",
]
"""What compatible servers do differently. All of it is seen in the wild; a tolerant client takes it.

    batched           all frames in one HTTP write                 torn              each frame in two writes
    comments          a `: ping` comment before every frame        crlf              lines end in CRLF
    no_space          `data:{...}` without a space                 no_done           no `data: [DONE]` at the end
    no_finish         no chunk tells a finish_reason               no_role           no delta has a role
    null_content      every delta has content, null if nothing     empty_choices     chunks without choices in between
    usage_on_finish   usage on the chunk with the finish_reason    usage_everywhere  the usage on every chunk
    usage_on_content  usage on the last chunk before that one
    no_tool_index     fragments of tool calls without an index     zero_tool_index   all tool calls have index 0
    empty_tool_ids    later fragments repeat id and name as ""
    json_for_stream   a whole answer though a stream was asked     stream_for_json   a stream though none was asked
"""
SLOPPY: frozenset[str] = frozenset(get_args(Sloppy))
Sloppiness: TypeAlias = Sloppy | Iterable[Sloppy]


def sloppiness(names: Sloppiness) -> frozenset[str]:
    """The names as a set; ValueError for one that does not exist."""
    chosen = frozenset([names] if isinstance(names, str) else names)
    if unknown := chosen - SLOPPY:
        raise ValueError(f"No such sloppiness: {', '.join(sorted(unknown))}; there are {', '.join(sorted(SLOPPY))}.")
    return chosen


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that the rules accepted, as a reply function gets it: `body` is its JSON, `number` counts requests."""

    body: Mapping[str, Any]
    number: int = 1

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages = self.body.get("messages")
        return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def stream_options(self) -> Mapping[str, Any]:
        options = self.body.get("stream_options")
        return options if isinstance(options, dict) else {}

    @property
    def choices(self) -> int:
        """How many choices were asked for (`n`)."""
        number = self.body.get("n")
        return number if isinstance(number, int) else 1

    @property
    def text(self) -> str:
        """The text of the last message of the user."""
        said = [message for message in self.messages if message.get("role") == "user"]
        return text_of(said[-1].get("content")) if said else ""


def tokens_in(text: str) -> int:
    """The estimate that the stand-in counts with: four characters a token, rounded up."""
    return -(-len(text) // 4)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as they are reported; the details are parts of the two totals."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": self.cache_write_tokens,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


@dataclass(frozen=True, kw_only=True)
class ModelAnswer(Answer, ABC):
    """What all answers of the model share.

    `usage`: True estimates it, False leaves it out. `delay`: seconds between two chunks of a stream; None: the
    service's `chunk_delay`. `finish_reason`: None: what fits the answer. `sloppy` adds to the service's own.
    """

    usage: Usage | bool = True
    delay: float | None = None
    finish_reason: str | None = None
    sloppy: Sloppiness = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sloppy", sloppiness(self.sloppy))

    @property
    @abstractmethod
    def usual_finish(self) -> str:
        """The finish reason that fits the answer."""

    @abstractmethod
    def message(self, number: int) -> dict[str, Any]:
        """The message of an unstreamed answer; `number` is the request's, to make ids from."""

    @abstractmethod
    def deltas(self, number: int) -> list[dict[str, Any]]:
        """The deltas of a stream after the first, which tells the role."""

    @abstractmethod
    def written(self) -> tuple[str, str]:
        """What the model wrote and what it thought before, for the estimate of usage."""

    def usage_for(self, request: ParsedRequest) -> Usage | None:
        """The usage to report, None if none is."""
        if isinstance(self.usage, Usage):
            return self.usage
        text, thought = self.written()
        reasoning = tokens_in(thought)
        completion = request.choices * (tokens_in(text) + reasoning)
        prompt = estimated_tokens(request.messages)
        return Usage(prompt, completion, reasoning_tokens=request.choices * reasoning) if self.usage else None


@dataclass(frozen=True)
class Say(ModelAnswer):
    """A text. `pieces` says how a stream cuts it: None: by words, n: in n pieces, or the pieces themselves.

    `reasoning` is told before it as `reasoning_content`, as several compatible servers do (OpenAI does not).
    """

    text: str = ""
    pieces: int | Sequence[str] | None = None
    reasoning: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.pieces, Sequence):
            whole = "".join(self.pieces)
            if self.text not in ("", whole):
                raise ValueError("The pieces do not add up to the text; give the pieces alone.")
            object.__setattr__(self, "text", whole)

    @property
    def usual_finish(self) -> str:
        return "stop"

    def message(self, number: int) -> dict[str, Any]:
        thought = {} if self.reasoning is None else {"reasoning_content": self.reasoning}
        return {"role": "assistant", "content": self.text, **thought, "refusal": None, "annotations": []}

    def deltas(self, number: int) -> list[dict[str, Any]]:
        thoughts = [{"reasoning_content": piece} for piece in cut_up(self.reasoning or "", None)]
        return thoughts + [{"content": piece} for piece in cut_up(self.text, self.pieces)]

    def written(self) -> tuple[str, str]:
        return self.text, self.reasoning or ""


@dataclass(frozen=True)
class Refuse(ModelAnswer):
    """The model declines, in the field that the service has for it."""

    text: str = "I'm sorry, I can't help with that."
    pieces: int | Sequence[str] | None = None

    @property
    def usual_finish(self) -> str:
        return "stop"

    def message(self, number: int) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "refusal": self.text, "annotations": []}

    def deltas(self, number: int) -> list[dict[str, Any]]:
        return [{"refusal": piece} for piece in cut_up(self.text, self.pieces)]

    def written(self) -> tuple[str, str]:
        return self.text, ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call. `arguments` are JSON-able, or the very text (also broken JSON); `id` None: one is made up."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    def as_json(self, number: int, index: int) -> dict[str, Any]:
        told = self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()
        made_up = f"call_{number:06d}_{index}"
        return {
            "id": made_up if self.id is None else self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": told},
        }


@dataclass(frozen=True)
class CallTools(ModelAnswer):
    """Calls of tools, all at once. `text` is said before them.

    In a stream the arguments of each call come in `pieces` fragments after one with its id and name; with 0 the
    whole call comes in one.
    """

    calls: Sequence[ToolCall | tuple[str, Mapping[str, Any] | str]] = ()
    text: str | None = None
    pieces: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        made = tuple(call if isinstance(call, ToolCall) else ToolCall(*call) for call in self.calls)
        if not made:
            raise ValueError("CallTools needs at least one call, such as (name, {argument: value}).")
        object.__setattr__(self, "calls", made)

    @property
    def usual_finish(self) -> str:
        return "tool_calls"

    def _told(self, number: int) -> list[dict[str, Any]]:
        return [call.as_json(number, i) for i, call in enumerate(self.calls) if isinstance(call, ToolCall)]

    def message(self, number: int) -> dict[str, Any]:
        calls = self._told(number)
        return {"role": "assistant", "content": self.text, "refusal": None, "annotations": [], "tool_calls": calls}

    def deltas(self, number: int) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = [{"content": piece} for piece in cut_up(self.text or "", None)]
        for index, call in enumerate(self._told(number)):
            function = call["function"]
            pieces = cut_up(function["arguments"], self.pieces) if self.pieces else []
            begin = {**call, "function": {**function, "arguments": ""}} if pieces else call
            deltas.append({"tool_calls": [{"index": index, **begin}]})
            deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
        return deltas

    def written(self) -> tuple[str, str]:
        told = [call["function"] for call in self._told(0)]
        return "".join([self.text or "", *(call["name"] + call["arguments"] for call in told)]), ""


@dataclass(frozen=True)
class Fail(Answer):
    """An error instead of an answer. What is left out is what the real service says with that status and code.

    `body` replaces the error object by any text, such as the page of a proxy.
    """

    status: int
    code: str | None = None
    message: str | None = None
    type: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None


def cut_up(text: str, pieces: int | Sequence[str] | None) -> list[str]:
    """The text in pieces that add up to it: by words, in so many of nearly the same length, or as given."""
    if pieces is None:
        return re.findall(r"\S+\s*|\s+", text)
    if not isinstance(pieces, int):
        return list(pieces)
    if pieces < 1:
        raise ValueError(f"A text is cut into at least one piece; got {pieces}.")
    count = min(pieces, len(text))
    edges = [len(text) * i // count for i in range(count + 1)] if count else [0]
    return [text[start:end] for start, end in pairwise(edges)]
