"""A stand-in for OpenAI's Chat Completions: a real HTTP server on 127.0.0.1, as strict as the real service.

    async with ChatCompletionsStandIn() as service:
        service.script(Say("Ahoy!"), Fail(429, headers={"retry-after": "1"}), CutStream(after=3))
        client = OpenAIChatClient(model="gpt-test", base_url=service.base_url, api_key="anything")
        ...
        assert service.refused == []
        assert service.messages(-1)[0]["role"] == "user"

Without `async` it serves in a thread of its own; as a program it is a process of its own, which prints its base URL:

    python -m holdfast.testing.openai_chat --port 0 --reply echo --chunk-delay 0.05

It answers POST /v1/chat/completions and GET /v1/models. It refuses, with OpenAI's errors, whatever the real service
refuses by its documented rules (`STRICT`); when nothing is scripted it echoes. Nothing in a body comes from a clock
or from chance: the same requests in the same order get the same bytes.

Rule of this file: it puts the parts together. Rules are in `openai_chat_rules`, answers in `openai_chat_answers`,
bytes in `openai_chat_rendering`, the server in `standin`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from holdfast.testing.openai_chat_answers import (
    SLOPPY,
    CallTools,
    Fail,
    ModelAnswer,
    ParsedRequest,
    Refuse,
    Say,
    Sloppiness,
    Sloppy,
    ToolCall,
    Usage,
    sloppiness,
)
from holdfast.testing.openai_chat_rendering import FailInStream, model_object, render
from holdfast.testing.openai_chat_rules import LENIENT, STRICT, context_fits
from holdfast.testing.openai_checks import INVALID, Field, RequestRefused, Rule, Rules, error_body
from holdfast.testing.standin import Reply, StandIn
from holdfast.testing.standin_journal import RecordedRequest, masked_key
from holdfast.testing.standin_tapes import Answer, BrokenJSON, CutStream, Fault, Hang, Tape, whole_body

__all__ = [
    "LENIENT",
    "SLOPPY",
    "STRICT",
    "Answer",
    "BrokenJSON",
    "CallTools",
    "ChatCompletionsStandIn",
    "CutStream",
    "Fail",
    "FailInStream",
    "Fault",
    "Hang",
    "ModelAnswer",
    "ParsedRequest",
    "RecordedRequest",
    "Refuse",
    "RequestRefused",
    "Rule",
    "Rules",
    "Say",
    "Sloppy",
    "ToolCall",
    "Usage",
    "echo",
]

_COMPLETIONS = "/v1/chat/completions"
_MODELS = "/v1/models"


def echo(request: ParsedRequest) -> Answer:
    """The default reply: repeats the last message of the user, and tells how many messages came with it."""
    return Say(f"You said: {request.text} (message {len(request.messages)})")


class ChatCompletionsStandIn(StandIn[ParsedRequest]):
    """A local service that speaks Chat Completions.

    `reply` answers when the script is used up. `api_key`: any other key, or none, gets 401. `models`: any other model
    gets 404, and GET /v1/models lists them; None accepts all. `context_limit`: more tokens (characters / 4) get
    context_length_exceeded. `chunk_delay`: seconds between two chunks of a stream. `sloppy`: what compatible servers
    do differently, in every answer. `rules`: what is refused. `port` and `keep`: see `StandIn`.
    """

    base_path: ClassVar[str] = "/v1"

    def __init__(
        self,
        *,
        reply: Reply[ParsedRequest] = echo,
        api_key: str | None = None,
        models: Collection[str] | None = None,
        context_limit: int | None = None,
        chunk_delay: float = 0.0,
        sloppy: Sloppiness = (),
        rules: Rules = STRICT,
        port: int = 0,
        keep: int | None = None,
    ) -> None:
        super().__init__(port=port, keep=keep)
        self._reply = reply
        self._api_key = api_key
        self._models = models
        self._chunk_delay = chunk_delay
        self._sloppy = sloppiness(sloppy)
        self._rules: Rules = rules if context_limit is None else (*rules, context_fits(context_limit))

    def messages(self, index: int = -1) -> list[dict[str, Any]]:
        """The messages that the n-th request for a completion held; -1 is the last."""
        asked = [record for record in self.requests if self._completes(record.path) and isinstance(record.json, dict)]
        try:
            return list(asked[index].json.get("messages") or ())
        except IndexError:
            raise LookupError(f"There is no request {index}: {len(asked)} for a completion came in.") from None

    # What makes it a stand-in.

    def answer(self, record: RecordedRequest, headers: Mapping[str, str]) -> Tape:
        try:
            self._check_key(headers)
            if record.path == _MODELS or record.path.startswith(f"{_MODELS}/"):
                return self._answer_models(record)
            if record.path != _COMPLETIONS:
                raise RequestRefused(f"Invalid URL ({record.method} {record.path})", status=404)
            _check_method(record, "POST")
            return self.next_tape(self._parsed(record, headers))
        except RequestRefused as refusal:
            record.refusal = refusal.message
            return whole_body(refusal.status, refusal.body())

    def default_reply(self, request: ParsedRequest) -> Answer | str:
        return self._reply(request)

    def said(self, text: str) -> Answer:
        return Say(text)

    def render(self, answer: Answer, request: ParsedRequest) -> Tape:
        return render(answer, request, chunk_delay=self._chunk_delay, sloppy=self._sloppy)

    def broken(self, error: Exception) -> Tape:
        told = f"The stand-in's script failed: {type(error).__name__}: {error}"
        return whole_body(500, error_body(told, type="stand_in_error"), {"x-should-retry": "false"})

    # The checks before the rules.

    def _completes(self, path: str) -> bool:
        """True if a completion is asked for there."""
        return path == _COMPLETIONS

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self._api_key is None:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise RequestRefused(
                "You didn't provide an API key. It belongs in an Authorization header: Bearer YOUR_KEY.", status=401
            )
        if key != self._api_key:
            raise RequestRefused(f"Incorrect API key provided: {masked_key(key)}.", status=401, code="invalid_api_key")

    def _answer_models(self, record: RecordedRequest) -> Tape:
        _check_method(record, "GET")
        known = sorted(self._models if self._models is not None else ("stand-in",))
        if record.path == _MODELS:
            listed = {"object": "list", "data": [model_object(model) for model in known]}
            return whole_body(200, msgspec.json.encode(listed))
        wanted = record.path.removeprefix(f"{_MODELS}/")
        self._check_model(wanted)
        return whole_body(200, msgspec.json.encode(model_object(wanted)))

    def _check_model(self, model: object) -> None:
        if self._models is not None and not (isinstance(model, str) and model in self._models):
            raise RequestRefused(
                f"The model `{model}` does not exist or you do not have access to it.",
                status=404,
                code="model_not_found",
            )

    def _parsed(self, record: RecordedRequest, headers: Mapping[str, str], **known: Any) -> ParsedRequest:
        """The request, if the rules accept it. What is `known` already counts more than what the body says."""
        given = headers.get("content-type", "")
        if given.partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused(
                f"Unsupported content type: '{given}'. This API method only accepts 'application/json' requests.",
                code="unsupported_content_type",
            )
        if not isinstance(record.json, dict):
            why = record.json_fault or "it is not a JSON object"
            raise RequestRefused(f"We could not parse the JSON body of your request: {why}.")
        body = {**record.json, **known}
        for rule in self._rules:
            rule(Field(body))
        self._check_model(body.get("model"))
        return ParsedRequest(body, record.number)


def _check_method(record: RecordedRequest, allowed: str) -> None:
    if record.method != allowed:
        raise RequestRefused(
            f"Not allowed to {record.method} on {record.path}. Perhaps you meant to {allowed}?",
            status=405,
            type=INVALID,
            code="method_not_supported",
        )


# A process of its own.


def _reply_named(name: str) -> Reply[ParsedRequest]:
    kind, _, rest = name.partition(":")
    if name == "echo":
        return echo
    if kind == "say" and rest:
        return lambda request: Say(rest)
    if kind == "words" and rest.isdecimal():
        said = Say(pieces=[f"word{index} " for index in range(int(rest))])
        return lambda request: said
    raise argparse.ArgumentTypeError(f"{name!r} is no reply: use echo, say:TEXT or words:N")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.testing.openai_chat",
        description="A local stand-in for OpenAI's Chat Completions. Prints its base URL and serves until SIGTERM.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (the default)")
    parser.add_argument("--reply", type=_reply_named, default=echo, help="echo (the default), say:TEXT or words:N")
    parser.add_argument("--chunk-delay", type=float, default=0.0, metavar="SECONDS", help="between two chunks")
    parser.add_argument("--api-key", help="refuse every other key")
    parser.add_argument("--model", action="append", dest="models", help="refuse other models; may be repeated")
    parser.add_argument("--context-limit", type=int, metavar="TOKENS", help="refuse longer conversations")
    parser.add_argument(
        "--sloppy",
        action="append",
        choices=sorted(SLOPPY),
        default=[],
        metavar="NAME",
        help="see holdfast.testing.openai_chat_answers; may be repeated",
    )
    parser.add_argument("--lenient", action="store_true", help="hardly check requests")
    return parser.parse_args(argv)


async def _serve(service: ChatCompletionsStandIn) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, ended.set)
    async with service:
        print(service.base_url, flush=True)
        await ended.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve as a process of its own until SIGTERM or Ctrl-C."""
    given = _arguments(argv)
    service = ChatCompletionsStandIn(
        reply=given.reply,
        api_key=given.api_key,
        models=given.models,
        context_limit=given.context_limit,
        chunk_delay=given.chunk_delay,
        sloppy=given.sloppy,
        rules=LENIENT if given.lenient else STRICT,
        port=given.port,
        keep=1,  # nobody can read the journal of another process
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(service))


if __name__ == "__main__":
    main()
