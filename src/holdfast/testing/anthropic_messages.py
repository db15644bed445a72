"""A stand-in for Anthropic's Messages: a real HTTP server on 127.0.0.1, as strict as the real service.

    async with AnthropicStandIn() as service:
        service.script(Say("Ahoy!"), Fail(529), CutStream(after=3))
        client = AnthropicChatClient("claude-test", base_url=service.base_url, api_key="anything")
        ...
        assert service.refused == []
        assert service.messages(-1)[0]["role"] == "user"

Without `async` it serves in a thread of its own. It answers POST /v1/messages, and refuses with Anthropic's errors
whatever the real service refuses by its documented rules (`STRICT`); when nothing is scripted it echoes. The answers
that it can be told to give are those of `holdfast.testing.openai_chat`. Nothing in a body comes from a clock or from
chance.

Rule of this file: it puts the parts together. Rules are in `anthropic_rules`, bytes in `anthropic_rendering`, the
server in `standin`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from holdfast.testing.anthropic_checks import Field, RequestRefused, Rule, Rules
from holdfast.testing.anthropic_rendering import FailInStream, refusal, render
from holdfast.testing.anthropic_rules import STRICT, begins_with_the_user, context_fits, does_not_sample
from holdfast.testing.openai_chat import echo
from holdfast.testing.openai_chat_answers import CallTools, Fail, ParsedRequest, Refuse, Say, ToolCall, Usage
from holdfast.testing.standin import Reply, StandIn
from holdfast.testing.standin_journal import RecordedRequest
from holdfast.testing.standin_tapes import Answer, BrokenJSON, CutStream, Fault, Hang, Tape

__all__ = [
    "STRICT",
    "Answer",
    "AnthropicStandIn",
    "BrokenJSON",
    "CallTools",
    "CutStream",
    "Fail",
    "FailInStream",
    "Fault",
    "Hang",
    "ParsedRequest",
    "RecordedRequest",
    "Refuse",
    "RequestRefused",
    "Rule",
    "Rules",
    "Say",
    "ToolCall",
    "Usage",
    "begins_with_the_user",
    "echo",
]

VERSIONS = ("2023-06-01", "2026-10-21")
_MESSAGES = "/v1/messages"


class AnthropicStandIn(StandIn[ParsedRequest]):
    """A local service that speaks Anthropic's Messages.

    `reply` answers when the script is used up. `api_key`: any other key, or none, gets 401. `models`: any other model
    gets 404; None accepts all. `context_limit`: more tokens (characters / 4) get "prompt is too long". `chunk_delay`:
    seconds between two events of a stream. `rules`: what is refused, besides what the version of the interface that a
    request names does not know. `port` and `keep`: see `StandIn`.
    """

    def __init__(
        self,
        *,
        reply: Reply[ParsedRequest] = echo,
        api_key: str | None = None,
        models: Collection[str] | None = None,
        context_limit: int | None = None,
        chunk_delay: float = 0.0,
        rules: Rules = STRICT,
        port: int = 0,
        keep: int | None = None,
    ) -> None:
        super().__init__(port=port, keep=keep)
        self._reply = reply
        self._api_key = api_key
        self._models = models
        self._chunk_delay = chunk_delay
        self._rules: Rules = rules if context_limit is None else (*rules, context_fits(context_limit))

    def messages(self, index: int = -1) -> list[dict[str, Any]]:
        """The messages that the n-th request held; -1 is the last."""
        asked = [record for record in self.requests if record.path == _MESSAGES and isinstance(record.json, dict)]
        try:
            return list(asked[index].json.get("messages") or ())
        except IndexError:
            raise LookupError(f"There is no request {index}: {len(asked)} came in.") from None

    # What makes it a stand-in.

    def answer(self, record: RecordedRequest, headers: Mapping[str, str]) -> Tape:
        try:
            self._check_key(headers)
            if record.path != _MESSAGES:
                raise RequestRefused("Not Found", status=404, type="not_found_error")
            if record.method != "POST":
                raise RequestRefused("Method Not Allowed", status=405)
            return self.next_tape(self._parsed(record, headers))
        except RequestRefused as refused:
            record.refusal = refused.message
            return refusal(refused.status, refused.message, refused.type, record.request_id)

    def default_reply(self, request: ParsedRequest) -> Answer | str:
        return self._reply(request)

    def said(self, text: str) -> Answer:
        return Say(text)

    def render(self, answer: Answer, request: ParsedRequest) -> Tape:
        return render(answer, request, chunk_delay=self._chunk_delay)

    def broken(self, error: Exception) -> Tape:
        told = f"The stand-in's script failed: {type(error).__name__}: {error}"
        return refusal(500, told, "api_error", "", {"x-should-retry": "false"})

    # The checks before the rules.

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self._api_key is None:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
        if not key:
            raise RequestRefused("x-api-key header is required", status=401, type="authentication_error")
        if key != self._api_key:
            raise RequestRefused("invalid x-api-key", status=401, type="authentication_error")

    def _parsed(self, record: RecordedRequest, headers: Mapping[str, str]) -> ParsedRequest:
        version = headers.get("anthropic-version")
        if version is None:
            raise RequestRefused("anthropic-version: header is required")
        if version not in VERSIONS:
            raise RequestRefused(f'anthropic-version: "{version}" is not a valid version')
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused("The request's content-type is not application/json")
        if not isinstance(record.json, dict):
            why = record.json_fault or "it is not a JSON object"
            raise RequestRefused(f"The request body is not valid JSON: {why}")
        body = Field(record.json)
        if version != VERSIONS[0]:
            does_not_sample(body)
        for rule in self._rules:
            rule(body)
        model = record.json["model"]
        if self._models is not None and model not in self._models:
            raise RequestRefused(f"model: {model}", status=404, type="not_found_error")
        return ParsedRequest(record.json, record.number)
