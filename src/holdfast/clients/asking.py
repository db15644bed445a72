"""Asking: a request is sent, and its answer read as updates, whatever the dialect.

Rule of this file: it says when something is sent again, and nothing else. How a request and an answer look is the
dialect's, how they travel is the transport's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from msgspec import Struct

from holdfast.clients.base import AgentMaker
from holdfast.clients.endpoints import Endpoint
from holdfast.clients.openai_errors import shown
from holdfast.clients.retries import Fault, pause
from holdfast.clients.sse import EventParser, EventTooLongError
from holdfast.conversation.errors import (
    ConfigurationError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnavailableError,
)
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.clients import ChatRequest, Codec
from holdfast.ports.runtime import Runtime

if TYPE_CHECKING:
    from holdfast.clients.transport import Reply, Transport

_log = logging.getLogger("holdfast.clients")

_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_REASON = 64 * 1024
_PATIENCE_FOR_REASONS = 10.0
# How long to wait for the end of the connection's part, once the answer is complete. It mostly came with it.
_FAREWELL = 0.25
_EVENT_FIELDS = (b"data", b"event", b"id:", b"retry:", b":")


class Decoder(Protocol):
    """One answer of a dialect. `chunks` takes the payloads of a stream, `whole` an answer in one piece.

    What went wrong is kept, not raised, so that what came before can be handed on first: `error` is the service's
    own error object, `broken` says why this is no answer, `finished` that it came to its end, and `done` that nothing
    else will come.
    """

    finished: bool
    done: bool
    error: Any
    broken: str | None

    def chunks(self, payloads: Iterable[bytes]) -> list[AgentRunResponseUpdate]: ...

    def whole(self, body: bytes) -> list[AgentRunResponseUpdate]: ...


class Dialect(Protocol):
    """What is a service's own in reading an answer. `answers` is what the service calls one, for errors."""

    @property
    def answers(self) -> str: ...

    def decoder(self) -> Decoder:
        """A new one, for one answer."""
        ...

    def refused(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], body: bytes, now_us: int) -> Fault:
        """An answer whose status says that it is none."""
        ...

    def reported(self, endpoint: Endpoint, status: int, headers: Mapping[str, str], error: Any, now_us: int) -> Fault:
        """An error object inside an answer that began well."""
        ...

    def request_id(self, endpoint: Endpoint, headers: Mapping[str, str]) -> str | None:
        """The service's own id of a request."""
        ...


class Patience(Struct, frozen=True):
    """How often a request is sent again, and how long a connection and the next word may take."""

    max_retries: int = 2
    connect_timeout: float = 10.0
    read_timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.connect_timeout <= 0 or self.read_timeout <= 0:
            raise ConfigurationError("max_retries is 0 or more, connect_timeout and read_timeout are more than 0.")


class AskingClient(AgentMaker):
    """What clients share whose service is sent the whole conversation: sending, reading, trying again.

    It may be used from any event loop and thread, and need not be closed.
    """

    keeps_history = False
    dialect: ClassVar[Dialect]

    def __init__(
        self, endpoint: Endpoint, model: str | None, codec: Codec, patience: Patience, runtime: Runtime
    ) -> None:
        self.service = endpoint.service
        self.model = model
        self.codec = codec
        self._endpoint = endpoint
        self._patience = patience
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
        most = self._patience.max_retries
        tries = 0
        while True:
            reply: Reply | None = None
            wait: float | None = None
            handed_on = False
            try:
                reply = await transport.post(request.body)
                answer = _Answer(reply, self._endpoint, self._runtime, self.dialect, self.dialect.decoder())
                while updates := await answer.next():
                    handed_on = True
                    yield updates
                return
            except Fault as fault:
                if not handed_on and tries < most:
                    wait = pause(fault, tries, self._runtime)
                if wait is None:
                    raise fault.error from None
                error = fault.error
            finally:
                if reply is not None:
                    reply.close()
            tries += 1
            facts = (self.service, error.code, error.status, error.request_id, tries, most, wait)
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
                patience = self._patience
                self._transport = Transport(
                    self._endpoint, connect_timeout=patience.connect_timeout, read_timeout=patience.read_timeout
                )
            return self._transport


class _Answer(Struct, eq=False):
    """One reply, read as updates."""

    reply: Any  # a Reply; its name is not known here until somebody asks
    endpoint: Endpoint
    runtime: Any
    dialect: Any
    decoder: Any
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
        updates: list[AgentRunResponseUpdate]
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
        found: list[AgentRunResponseUpdate] = self.decoder.whole(body)
        return found

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
        reply = self.reply
        fault: Fault = self.dialect.refused(self.endpoint, reply.status, reply.headers, body, self.runtime.now_us())
        return fault

    def _fault(self) -> Fault:
        """Why this was no answer, or no complete one."""
        endpoint, reply, decoder = self.endpoint, self.reply, self.decoder
        if decoder.error is not None:
            reported: Fault = self.dialect.reported(
                endpoint, reply.status, reply.headers, decoder.error, self.runtime.now_us()
            )
            return reported
        facts: dict[str, Any] = {
            "service": endpoint.service,
            "status": reply.status,
            "request_id": self.dialect.request_id(endpoint, reply.headers),
        }
        if decoder.broken is None:
            cut: ServiceError = ServiceUnavailableError(
                f"The answer of {endpoint.origin} was cut off: it ended without a reason. Try again.", **facts
            )
            return Fault(cut, again=True)
        kind = shown(endpoint, self._content_type()) or "none"
        what = "a web page" if "html" in kind else decoder.broken
        error = ServiceProtocolError(
            f"{endpoint.origin} answered with {what}, not with {self.dialect.answers} (content type: {kind}). "
            f"Check {endpoint.setting}, {endpoint.form}.",
            **facts,
        )
        return Fault(error)
