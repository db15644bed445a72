"""A stand-in for Azure OpenAI's chat completions: a real HTTP server on 127.0.0.1, as strict as the real service.

    async with AzureOpenAIStandIn(deployments=["chat"], tokens=["a-token"]) as service:
        service.script(Say("Ahoy!"), BlockPrompt("violence"), Say("Ahoy", finish_reason="content_filter"))
        client = AzureOpenAIChatClient("chat", endpoint=service.endpoint, credential=...)
        ...
        assert service.refused == []

It speaks both forms of the address, which are told apart by their paths:

    {endpoint}/openai/v1/chat/completions                                        the deployment is the body's model
    {endpoint}/openai/deployments/NAME/chat/completions?api-version=2024-10-21   the body's model is not looked at

What is asked and answered is OpenAI's, by the rules of `openai_chat_rules`; Azure's own are the credential (a key in
`api-key`, a token in `Authorization`; v1 takes a key there too), the annotations of the content filter, the words of
its gateway's errors, and the header apim-request-id.

Rule of this file: it adds what Azure does differently and repeats nothing of the rest. Its http:// address is not what
the real service would have; that a client refuses one elsewhere is the client's to prove.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from holdfast.testing.openai_chat import ChatCompletionsStandIn, Fail, ParsedRequest, echo
from holdfast.testing.openai_chat_rendering import Dialect, render
from holdfast.testing.openai_chat_rules import STRICT
from holdfast.testing.openai_checks import INVALID, RequestRefused, Rules
from holdfast.testing.standin import Reply
from holdfast.testing.standin_journal import RecordedRequest
from holdfast.testing.standin_tapes import Answer, Head, Tape, whole_body

Filter: TypeAlias = Literal["default", "asynchronous", "off"]
"""How the content filter works: it holds the text back until it is checked, annotates it afterwards, or is off."""

_V1 = "/openai/v1/chat/completions"
_DEPLOYED = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_UNDATED = ("v1", "latest", "preview")
# The first version that knows these parameters.
_MODERN = "2024-09-01"
_NEW_THEN = ("max_completion_tokens", "parallel_tool_calls", "stream_options")
# So many characters of a text, at least, are annotated at once by the asynchronous filter.
_AT_ONCE = 8

_NOT_FOUND = ("404", "Resource not found")
_NO_DEPLOYMENT = (
    "DeploymentNotFound",
    "The API deployment for this resource does not exist. If it is a new one, please wait a moment and try again.",
)
_WRONG_KEY = ("401", "Access denied due to invalid subscription key or wrong API endpoint.")
_WRONG_TOKEN = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect "
    "(https://cognitiveservices.azure.com), or have expired."
)
_FAILURES = {
    401: _WRONG_KEY,
    404: _NO_DEPLOYMENT,
    429: ("429", "Requests have exceeded the call rate limit of your current OpenAI S0 pricing tier."),
    500: ("InternalServerError", "The backend returned an unexpected response."),
}


class GatewayRefused(RequestRefused):
    """The gateway in front of the service answers. It has a code and a message, and no type or parameter."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, status=status, code=code)

    def body(self) -> bytes:
        return _gateway_body(self.code or "", self.message)


class TokenRefused(RequestRefused):
    """The gateway does not take the token; this error has a form of its own."""

    def __init__(self) -> None:
        super().__init__(_WRONG_TOKEN, status=401)

    def body(self) -> bytes:
        return msgspec.json.encode({"statusCode": self.status, "message": self.message})


@dataclass(frozen=True)
class BlockPrompt(Answer):
    """The content filter refuses what was asked. `category` is what it found: hate, violence, jailbreak and so on."""

    category: str = "violence"
    severity: str = "medium"


class AzureOpenAIStandIn(ChatCompletionsStandIn):
    """A local service that speaks Azure OpenAI's chat completions.

    `api_key` and `tokens` are what lets one in; if neither is given, any credential does, but there must be one.
    `tokens` may be changed while it runs: a token that is taken out is refused from then on. `deployments`: any other
    gets 404; None accepts all. `model` is the name of the model behind them, which answers tell. `filter` is how the
    content filter works. The others are as for `ChatCompletionsStandIn`.
    """

    base_path: ClassVar[str] = "/openai/v1"

    def __init__(
        self,
        *,
        reply: Reply[ParsedRequest] = echo,
        api_key: str | None = None,
        tokens: Collection[str] | None = None,
        deployments: Collection[str] | None = None,
        model: str = "gpt-4o-mini-2024-07-18",
        filter: Filter = "default",
        context_limit: int | None = None,
        chunk_delay: float = 0.0,
        rules: Rules = STRICT,
        port: int = 0,
        keep: int | None = None,
    ) -> None:
        super().__init__(
            reply=reply,
            models=deployments,
            context_limit=context_limit,
            chunk_delay=chunk_delay,
            rules=rules,
            port=port,
            keep=keep,
        )
        self._key = api_key
        self.tokens = None if tokens is None else set(tokens)
        self._dialect = _AzuresDialect(model, filter)

    @property
    def endpoint(self) -> str:
        """What a client is told as the endpoint of the resource; `base_url` is that of the v1 form."""
        return self.base_url.removesuffix(self.base_path)

    def answer(self, record: RecordedRequest, headers: Mapping[str, str]) -> Tape:
        try:
            tape = self.next_tape(self._asked(record, headers))
        except RequestRefused as refusal:
            record.refusal = refusal.message
            tape = whole_body(refusal.status, refusal.body())
        told = {"apim-request-id": f"00000000-0000-4000-8000-{record.number:012d}", "x-ms-region": "Stand-in"}
        return tuple(
            replace(step, headers={**told, **step.headers}) if isinstance(step, Head) else step for step in tape
        )

    def render(self, answer: Answer, request: ParsedRequest) -> Tape:
        if isinstance(answer, BlockPrompt):
            return whole_body(400, _blocked(answer))
        if isinstance(answer, Fail) and answer == Fail(answer.status, headers=answer.headers):
            words = _FAILURES.get(answer.status)
            if words is not None:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return whole_body(answer.status, _gateway_body(*words), headers)
        return render(answer, request, chunk_delay=self._chunk_delay, dialect=self._dialect)

    # The checks before the rules.

    def _asked(self, record: RecordedRequest, headers: Mapping[str, str]) -> ParsedRequest:
        deployed = _DEPLOYED.fullmatch(record.path)
        self._check_credential(headers, is_v1=deployed is None)
        if record.method != "POST" or not self._completes(record.path):
            raise GatewayRefused(404, *_NOT_FOUND)
        version = record.query.get("api-version")
        if deployed is None:
            if version is not None and version not in _UNDATED:
                raise GatewayRefused(400, "BadRequest", "API version not supported")
            return self._parsed(record, headers)
        if version is None:
            raise GatewayRefused(404, *_NOT_FOUND)
        if not _DATED.fullmatch(version):
            raise GatewayRefused(400, "BadRequest", "API version not supported")
        if version < _MODERN and isinstance(record.json, dict):
            unknown = [name for name in _NEW_THEN if name in record.json]
            if unknown:
                words = f"Unrecognized request argument supplied: {', '.join(unknown)}"
                raise RequestRefused(words, type=INVALID)
        return self._parsed(record, headers, model=deployed[1])

    def _completes(self, path: str) -> bool:
        return path == _V1 or _DEPLOYED.fullmatch(path) is not None

    def _check_credential(self, headers: Mapping[str, str], *, is_v1: bool) -> None:
        key = headers.get("api-key")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = ""
        any_will_do = self._key is None and self.tokens is None
        if key is not None:
            if not (any_will_do or key == self._key) or not key:
                raise GatewayRefused(401, *_WRONG_KEY)
            return
        known = set(self.tokens or ())
        if is_v1 and self._key is not None:
            known.add(self._key)
        if not token or not (any_will_do or token in known):
            raise TokenRefused

    def _check_model(self, model: object) -> None:
        if self._models is not None and model not in self._models:
            raise GatewayRefused(404, *_NO_DEPLOYMENT)


# The annotations of the content filter.


class _AzuresDialect(Dialect):
    """What Azure says besides: the model behind the deployment, and what the content filter found."""

    def __init__(self, model: str, filter: Filter) -> None:
        self._model = model
        self._filter = filter

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        completion = {**completion, "model": self._model}
        if self._filter == "off":
            return completion
        choices = [
            {**choice, "content_filter_results": _found(choice["finish_reason"])} for choice in completion["choices"]
        ]
        return {**completion, "choices": choices, "prompt_filter_results": [_of_prompt()]}

    def chunks(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        named = ({**chunk, "model": self._model} for chunk in chunks)
        if self._filter == "off":
            yield from named
            return
        yield {**_NOBODYS, "choices": [], "prompt_filter_results": [_of_prompt()]}
        yield from self._held_back(named) if self._filter == "default" else self._afterwards(named)

    def _held_back(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Each piece of text was checked before it was sent."""
        for chunk in chunks:
            for choice in chunk["choices"]:
                checked = choice["delta"].get("content") or choice["finish_reason"] == "content_filter"
                choice["content_filter_results"] = _found(choice["finish_reason"]) if checked else {}
            yield chunk

    def _afterwards(self, chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The pieces are sent at once; what was found is told in chunks of its own, also after the last piece."""
        waiting = checked = 0
        for chunk in chunks:
            finish = chunk["choices"][0]["finish_reason"] if chunk["choices"] else None
            if finish == "content_filter":
                yield _annotation(checked, checked + waiting, finish)
                return
            yield chunk
            waiting += sum(len(choice["delta"].get("content") or "") for choice in chunk["choices"])
            if finish is not None or waiting >= _AT_ONCE:
                yield _annotation(checked, checked + waiting)
                checked, waiting = checked + waiting, 0


_NOBODYS: dict[str, Any] = {"id": "", "object": "", "created": 0, "model": ""}
_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


def _of_prompt() -> dict[str, Any]:
    return {
        "prompt_index": 0,
        "content_filter_results": {**_SAFE, "jailbreak": {"filtered": False, "detected": False}},
    }


def _found(finish: str | None) -> dict[str, Any]:
    if finish != "content_filter":
        return _SAFE
    return {**_SAFE, "violence": {"filtered": True, "severity": "medium"}}


def _annotation(start: int, end: int, finish: str | None = None) -> dict[str, Any]:
    """A chunk that says something about text that was sent before: its choice has no delta."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "content_filter_results": _found(finish),
        "content_filter_offsets": {"check_offset": end, "start_offset": start, "end_offset": end},
    }
    return {**_NOBODYS, "choices": [choice], "usage": None}


# Errors.


def _gateway_body(code: str, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "message": message}})


def _blocked(answer: BlockPrompt) -> bytes:
    detects = answer.category == "jailbreak" or answer.category.startswith("protected_material")
    verdict: dict[str, Any] = {"filtered": True, **({"detected": True} if detects else {"severity": answer.severity})}
    found: dict[str, Any] = {**_SAFE, "jailbreak": {"filtered": False, "detected": False}, answer.category: verdict}
    error = {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": found},
    }
    return msgspec.json.encode({"error": error})
