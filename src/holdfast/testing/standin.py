"""What all stand-in services share: a real HTTP server on 127.0.0.1, a script of answers, a journal of requests.

Rule of this file: it knows HTTP, but no dialect. A dialect is a subclass that turns a recorded request into a tape
(see `standin_tapes`), with rules and words of its own.

    async with SomeStandIn() as service:      # serves in the running loop
    with SomeStandIn() as service:            # serves in a thread of its own
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from holdfast.testing.standin_journal import Journal, RecordedRequest, masked_headers
from holdfast.testing.standin_tapes import Answer, Cut, Fault, Head, Pause, Send, Tape

RequestT = TypeVar("RequestT")
Reply: TypeAlias = Callable[[RequestT], Answer | str]
Scripted: TypeAlias = Answer | str | Callable[[RequestT], Answer | str]

_HOST = "127.0.0.1"
_GRACE = 2.0  # seconds that answers under way get to end when the service stops
_NO_LINGER = struct.pack("ii", 1, 0)  # closing sends RST and drops what is unsent


class StandIn(ABC, Generic[RequestT]):
    """A stand-in service: see the dialects for what one answers.

    `port=0` takes a free port. After `stop()`, `start()` serves at the same address again, so a service can go down
    and come back in the middle of a test. `keep` bounds the journal; None keeps every request.
    """

    base_path: ClassVar[str] = ""

    def __init__(self, *, port: int = 0, keep: int | None = None) -> None:
        self._port = port
        self._journal = Journal(keep)
        self._script: deque[Scripted[RequestT]] = deque()
        self._failures: list[Exception] = []
        self._runner: web.AppRunner | None = None
        self._closing = asyncio.Event()
        self._started_at = 0.0
        self._thread: _ServingThread | None = None

    # What a dialect defines.

    @abstractmethod
    def answer(self, record: RecordedRequest, headers: Mapping[str, str]) -> Tape:
        """The tape to play for a request. `headers` are the true ones (lower-case names), to check the key by.

        To refuse a request, set `record.refusal` and return the error's tape.
        """

    @abstractmethod
    def render(self, answer: Answer, request: RequestT) -> Tape:
        """The tape of an answer of this dialect."""

    @abstractmethod
    def default_reply(self, request: RequestT) -> Answer | str:
        """What is answered when the script is used up."""

    @abstractmethod
    def said(self, text: str) -> Answer:
        """The dialect's answer for a plain string in the script."""

    @abstractmethod
    def broken(self, error: Exception) -> Tape:
        """What is sent when a function of the script raised; the error itself is raised where the service ends."""

    # The script.

    def script(self, *answers: Scripted[RequestT]) -> None:
        """Queue answers; each accepted request takes the next one. When none is left, the default reply answers.

        An answer is one of the dialect's classes, a fault around one, a string, or a function of the parsed request
        that returns one of these. A request that the rules refuse takes none.
        """
        self._script.extend(answers)

    @property
    def unused(self) -> int:
        """How many scripted answers nobody has asked for yet."""
        return len(self._script)

    def next_tape(self, request: RequestT) -> Tape:
        """The tape of the next scripted answer, or of the default reply."""
        scripted: Scripted[RequestT] = self._script.popleft() if self._script else self.default_reply
        return self._tape_of(scripted(request) if callable(scripted) else scripted, request)

    def _tape_of(self, answer: Answer | str, request: RequestT) -> Tape:
        if isinstance(answer, str):
            answer = self.said(answer)
        if isinstance(answer, Fault):
            inner = answer.underneath
            return answer.apply(self._tape_of(self.default_reply(request) if inner is None else inner, request))
        return self.render(answer, request)

    # The journal.

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request that came in whole, in order of arrival (the newest `keep` of them)."""
        return list(self._journal.records)

    @property
    def last(self) -> RecordedRequest:
        """The request that came last."""
        if not self._journal.records:
            raise LookupError("No request has come in yet; wait_for_requests(1) waits for one.")
        return self._journal.records[-1]

    @property
    def refused(self) -> list[RecordedRequest]:
        """The requests that the service refused by its own rules (400, 401, 404 and so on), not by the script."""
        return [record for record in self._journal.records if record.refusal is not None]

    async def wait_for_requests(self, count: int, timeout: float = 10.0) -> None:
        """Wait until so many requests in all have come in; their answers may still be under way."""
        await self._journal.wait(lambda: self._journal.arrived >= count, timeout, f"{count} requests")

    async def wait_until_idle(self, timeout: float = 10.0) -> None:
        """Wait until no answer is under way: then every record tells how it ended."""
        await self._journal.wait(lambda: self._journal.idle, timeout, "all answers to end")

    def block_for_requests(self, count: int, timeout: float = 10.0) -> None:
        """`wait_for_requests` for code without a loop, beside a service in a thread of its own."""
        self._journal.block(lambda: self._journal.arrived >= count, timeout, f"{count} requests")

    def block_until_idle(self, timeout: float = 10.0) -> None:
        """`wait_until_idle` for code without a loop, beside a service in a thread of its own."""
        self._journal.block(lambda: self._journal.idle, timeout, "all answers to end")

    # The server's life.

    @property
    def base_url(self) -> str:
        """What a client is told: scheme, address, port and the dialect's base path."""
        if not self._port:
            raise RuntimeError('The service has no address yet; start it with "async with" or "with".')
        return f"http://{_HOST}:{self._port}{self.base_path}"

    async def start(self) -> None:
        """Begin to serve in the running loop."""
        if self._runner is not None:
            raise RuntimeError("The service is running already; stop() it first, or use another one.")
        app = web.Application(client_max_size=0)  # no limit: long conversations are what is tested
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_GRACE)
        await runner.setup()
        try:
            await web.TCPSite(runner, _HOST, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        self._closing = asyncio.Event()
        self._started_at = asyncio.get_running_loop().time()

    async def stop(self) -> None:
        """Stop serving and cut what is under way. Does nothing if the service is not running."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._closing.set()
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._raise_failure(error)

    def __enter__(self) -> Self:
        thread = _ServingThread(self)
        thread.begin()
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()
        self._raise_failure(error)

    def _raise_failure(self, other: BaseException | None) -> None:
        """A function of the script that raised must not pass unseen; but another error comes first."""
        if self._failures and other is None:
            raise self._failures[0]

    # One request.

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        try:
            record = await self._received(http)
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400, text="The body did not come in whole.")
        try:
            tape = self.answer(record, {name.lower(): value for name, value in http.headers.items()})
        except Exception as error:
            self._failures.append(error)
            tape = self.broken(error)
        try:
            return await self._played(tape, http, record)
        except ConnectionError:
            self._journal.end(record, "disconnected")
            return web.Response()  # nobody is there to get it: aiohttp drops it with the connection
        except asyncio.CancelledError:
            self._journal.end(record, "cut" if self._closing.is_set() else "disconnected")
            raise
        except Exception as error:  # what was scripted cannot be sent, such as a header with a line break
            self._failures.append(error)
            self._journal.end(record, "cut")
            _drop(http, reset=False)
            return web.Response()

    async def _received(self, http: web.Request) -> RecordedRequest:
        body = await http.read()
        parsed, fault = None, None
        if body:
            try:
                parsed = msgspec.json.decode(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                fault = str(error)
        number = self._journal.arrived + 1
        record = RecordedRequest(
            number=number,
            method=http.method,
            path=http.path,
            query=dict(http.query),
            headers=masked_headers(http.headers),
            body=body,
            json=parsed,
            json_fault=fault,
            at=asyncio.get_running_loop().time() - self._started_at,
            request_id=f"req_{number:06d}",
        )
        self._journal.add(record)
        return record

    async def _played(self, tape: Tape, http: web.Request, record: RecordedRequest) -> web.StreamResponse:
        match tape:
            case (Head(length=int()) as head, Send() as body):
                response = web.Response(status=head.status, headers=_headers(head, record), body=body.data)
                record.status = head.status
                await response.prepare(http)
                await response.write_eof()
                self._journal.end(record, "complete")
                return response
            case _:
                return await self._played_in_steps(tape, http, record)

    async def _played_in_steps(self, tape: Tape, http: web.Request, record: RecordedRequest) -> web.StreamResponse:
        """The answer counts as complete with its last step, however soon the client closes after it."""
        response = web.StreamResponse()
        for step in tape:
            if isinstance(step, Cut) or self._closing.is_set():
                self._journal.end(record, "cut")
                _drop(http, reset=isinstance(step, Cut) and step.reset)
                return response
            match step:
                case Pause():
                    await self._pause(step.seconds)
                case Head():
                    record.status = step.status
                    response = web.StreamResponse(status=step.status, headers=_headers(step, record))
                    response.content_length = step.length
                    await response.prepare(http)
                case Send():
                    await response.write(step.data)
                    if step is tape[-1]:
                        self._journal.end(record, "complete")
                    await asyncio.sleep(0)  # a client in the same loop reads piece by piece
        self._journal.end(record, "complete")
        await response.write_eof()
        return response

    async def _pause(self, seconds: float | None) -> None:
        """Wait; the stop of the service ends every pause."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


class _ServingThread:
    """A thread with a loop of its own in which a stand-in serves until it is told to end."""

    def __init__(self, service: StandIn[Any]) -> None:
        self._service = service
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="holdfast-stand-in", daemon=True
        )

    def begin(self) -> None:
        """Return when the service has its address; raise what kept it from starting."""
        self._thread.start()
        self._ready.result()

    def end(self) -> None:
        """Stop the service and wait for the thread."""
        self._loop.call_soon_threadsafe(self._halt.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._halt = asyncio.Event()
        try:
            await self._service.start()
        except Exception as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        await self._halt.wait()
        await self._service.stop()


def _headers(head: Head, record: RecordedRequest) -> dict[str, str]:
    return {"x-request-id": record.request_id, **head.headers}


def _drop(http: web.Request, *, reset: bool) -> None:
    """Close the connection under an answer. What was written is flushed first, unless it is reset."""
    transport = http.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
