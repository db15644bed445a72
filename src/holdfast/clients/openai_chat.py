"""OpenAIChatClient: Chat Completions, at OpenAI or at any server that speaks its dialect.

Rule of this file: it says when something is sent again, and nothing else. What is sent and what comes back is the
codec's, how it travels is the transport's. A service with the same wire and another way to its address and credential
is another subclass of `ChatCompletionsClient`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import Struct

from holdfast.clients.base import AgentMaker
from holdfast.clients.endpoints import Endpoint, is_openai, openai_endpoint, openai_model
from holdfast.clients.environment import environment
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec, ChatCompletionsDecoder
from holdfast.clients.openai_errors import refused, reported, request_id, shown
from holdfast.clients.retries import Fault, pause
from holdfast.clients.sse import EventParser, EventTooLongError
from holdfast.conversation.errors import (
    ConfigurationError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnavailableError,
)
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.clients import ChatRequest
from holdfast.ports.runtime import SYSTEM, Runtime

if TYPE_CHECKING:
    from holdfast.clients.transport import Reply, Transport

_log = logging.getLogger("holdfast.clients")

_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_REASON = 64 * 1024
_PATIENCE_FOR_REASONS = 10.0
# How long to wait for the end of the connection's part, once the answer is complete. It mostly came with it.
_FAREWELL = 0.25
_EVENT_FIELDS = (b"data", b"event", b"id:", b"retry:", b":")


class ChatCompletionsClient(AgentMaker):
    """What the clients for Chat Completions share: sending, reading, trying again. Only its subclasses are made.

    It may be used from any event loop and thread, and need not be closed.
    """

    keeps_history = False

    def __init__(
        self,
        endpoint: Endpoint,
        model: str | None,
        codec: ChatCompletionsCodec,
        *,
        max_retries: int,
        connect_timeout: float,
        read_timeout: float,
        runtime: Runtime,
    ) -> None:
        if max_retries < 0 or connect_timeout <= 0 or read_timeout <= 0:
            raise ConfigurationError("max_retries is 0 or more, connect_timeout and read_timeout are more than 0.")
        self.service = endpoint.service
        self.model = model
        self.codec = codec
        self._endpoint = endpoint
        self._max_retries = max_retries
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._runtime = runtime
        self._transport: Transport | None = None
        self._opening = threading.Lock()

    @property
    def address(self) -> str:
        """Scheme, host and port of who is asked: what may be shown of the address."""
        return self._endpoint.origin

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, at {self.address})"

    async def ask(self, request: ChatRequest) -> AsyncGenerator[list[AgentRunResponseUpdate], None]:
        """Send the request and yield the answer: a list of updates for each read of the network."""
        transport = self._transport or self._open()
        tries = 0
        while True:
            reply: Reply | None = None
            wait: float | None = None
            handed_on = False
            try:
                reply = await transport.post(request.body)
                answer = _Answer(reply, self._endpoint, self._runtime)
                while updates := await answer.next():
                    handed_on = True
                    yield updates
                return
            except Fault as fault:
                if not handed_on and tries < self._max_retries:
                    wait = pause(fault, tries, self._runtime)
                if wait is None:
                    raise fault.error from None
                error = fault.error
            finally:
                if reply is not None:
                    reply.close()
            tries += 1
            facts = (self.service, error.code, error.status, error.request_id, tries, self._max_retries, wait)
            _log.info("%s: %s (status %s, request %s); retry %d of %d in %.2f s", *facts)
            await self._runtime.sleep(wait)

    async def aclose(self) -> None:
        """Close the connections. Nobody has to; a closed client can be used again."""
        if self._transport is not None:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _open(self) -> Transport:
        # The step that brings the HTTP library in; until now nothing has needed it.
        from holdfast.clients.transport import Transport

        with self._opening:
            if self._transport is None:
                self._transport = Transport(
                    self._endpoint, connect_timeout=self._connect_timeout, read_timeout=self._read_timeout
                )
            return self._transport


class OpenAIChatClient(ChatCompletionsClient):
    """A chat client for Chat Completions.

        client = OpenAIChatClient("gpt-4o-mini")     # with OPENAI_API_KEY from the environment
        client = OpenAIChatClient("llama3", base_url="http://localhost:11434/v1")

    `model`, `base_url`, `api_key` and `organization` come from OPENAI_CHAT_MODEL_ID, OPENAI_BASE_URL, OPENAI_API_KEY
    and OPENAI_ORG_ID where they are not given: from the environment, else from a `.env` file in the current directory
    (see `holdfast.clients.environment`). `read_timeout` is how long the service may say nothing; there is no limit on
    a whole answer. `max_tokens_field` names the option for the length of answers: OpenAI's name at OpenAI, the older
    "max_tokens" elsewhere. It may be used from any event loop and thread, and need not be closed.
    Raises ConfigurationError for what is missing or malformed.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        max_retries: int = 2,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        instruction_role: str = "system",
        max_tokens_field: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        include_usage: bool = True,
        runtime: Runtime = SYSTEM,
    ) -> None:
        known = environment()
        endpoint = openai_endpoint(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            default_headers=default_headers,
            environ=known,
        )
        model = openai_model(model, known)
        usual = "max_completion_tokens" if is_openai(endpoint.url) else "max_tokens"
        codec = ChatCompletionsCodec(
            model,
            instruction_role=instruction_role,
            max_tokens_field=max_tokens_field or usual,
            include_usage=include_usage,
        )
        super().__init__(
            endpoint,
            model,
            codec,
            max_retries=max_retries,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            runtime=runtime,
        )


class _Answer(Struct, eq=False):
    """One reply, read as updates."""

    reply: Any  # a Reply; its name is not known here until somebody asks
    endpoint: Endpoint
    runtime: Any
    decoder: ChatCompletionsDecoder = msgspec.field(default_factory=ChatCompletionsDecoder)
    events: EventParser | None = None  # for a stream
    over: bool = False

    async def next(self) -> list[AgentRunResponseUpdate]:
        """What comes next; an empty list once the answer is complete. Raises Fault."""
        decoder = self.decoder
        updates: list[AgentRunResponseUpdate] = []
        while not updates and not self.over:
            try:
                data = await self.reply.read()
            except Fault:
                if not decoder.finished:
                    raise
                data = b""  # all that matters had come
            if self.events is not None:
                updates = self._streamed(self.events, data)
            elif self.reply.status >= 300:
                raise await self._refused(data)
            elif data[:1] != b"{" and self._is_stream(data):
                self.events = EventParser()
                updates = self._streamed(self.events, data)
            else:
                updates = await self._whole(data)
        if not updates:
            if not decoder.finished or decoder.error is not None or decoder.broken is not None:
                raise self._fault()
            if self.events is not None:
                await self.reply.drain(_FAREWELL)
        return updates

    def _streamed(self, events: EventParser, data: bytes) -> list[AgentRunResponseUpdate]:
        decoder = self.decoder
        try:
            if data:
                updates = decoder.chunks(events.feed(data))
            else:
                self.over = True
                updates = decoder.chunks(events.flush())
                decoder.broken = None  # an event without its end may be half of one
        except EventTooLongError as error:
            updates = decoder.chunks(error.before)
            decoder.broken = "an event that is too long"
        if decoder.done or decoder.error is not None or decoder.broken is not None:
            self.over = True
        return updates

    async def _whole(self, data: bytes) -> list[AgentRunResponseUpdate]:
        """An answer in one piece."""
        self.over = True
        pieces = [data]
        size = len(data)
        while data and size <= _LONGEST_ANSWER:
            data = await self.reply.read()
            pieces.append(data)
            size += len(data)
        body = b"".join(pieces)
        if data:
            self.decoder.broken = "an answer that is too long"
            return []
        if not body.strip():
            self.decoder.broken = "an empty body"
            return []
        if body[:1] != b"{" and self._is_stream(body):
            events = EventParser(_LONGEST_ANSWER)
            return self._streamed(events, body) + self._streamed(events, b"")
        return self.decoder.whole(body)

    def _is_stream(self, data: bytes) -> bool:
        """True if this begins a stream of events. The content type is asked last, for it is often wrong."""
        start = data.lstrip(b"\xef\xbb\xbf \t\r\n")
        if not start:
            return bool(data) and self._content_type().startswith("text/event-stream")
        return any(start.startswith(field) or field.startswith(start) for field in _EVENT_FIELDS)

    def _content_type(self) -> str:
        return str(self.reply.headers.get("content-type", "")).lower()

    async def _refused(self, body: bytes) -> Fault:
        """The service did not answer but gave a reason."""
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(_PATIENCE_FOR_REASONS):
                data = body
                while data and len(body) < _LONGEST_REASON:
                    data = await self.reply.read()
                    body += data
        return refused(self.endpoint, self.reply.status, self.reply.headers, body, self.runtime.now_us())

    def _fault(self) -> Fault:
        """Why this was no answer, or no complete one."""
        endpoint, reply, decoder = self.endpoint, self.reply, self.decoder
        if decoder.error is not None:
            return reported(endpoint, reply.status, reply.headers, decoder.error, self.runtime.now_us())
        kind = shown(endpoint, self._content_type()) or "none"
        if decoder.broken is None:
            error: ServiceError = ServiceUnavailableError(
                f"The answer of {endpoint.origin} was cut off: it ended without a reason. Try again.",
                service=endpoint.service,
                status=reply.status,
                request_id=request_id(endpoint, reply.headers),
            )
            return Fault(error, again=True)
        what = "a web page" if "html" in kind else decoder.broken
        error = ServiceProtocolError(
            f"{endpoint.origin} answered with {what}, not with a chat completion (content type: {kind}). "
            f"Check {endpoint.setting}, {endpoint.form}.",
            service=endpoint.service,
            status=reply.status,
            request_id=request_id(endpoint, reply.headers),
        )
        return Fault(error)
