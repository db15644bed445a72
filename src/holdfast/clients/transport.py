"""The transport: posts bytes to one endpoint and reads what comes back. The only file that knows aiohttp.

Rule of this file: no service is known here, and no credential leaves it but to the wire. Errors of the HTTP library
end here too: they hold requests with all their headers, so they are told in our own words and never chained.

There is a session for each event loop that asks, closed with that loop: nobody has to close anything.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from holdfast.clients.endpoints import Endpoint, Headers
from holdfast.clients.proxies import proxy_for
from holdfast.clients.retries import Fault
from holdfast.conversation.errors import ServiceError, ServiceProtocolError, ServiceUnavailableError

# Longer than a person thinks between two turns, shorter than what firewalls and load balancers forget in silence.
_KEEP_ALIVE = 60.0
# Up to here a body is copied, so that it leaves in one piece with the headers; a larger one is sent from where it is.
_COPIED = 64 * 1024
# The last one comes from the names of hosts.
_HTTP_FAILURES = (aiohttp.ClientError, OSError, asyncio.TimeoutError, UnicodeError)


class _Upload(aiohttp.Payload):
    """The body of one request, lent by the caller and written once.

    aiohttp's own payload for bytes warns about large ones and copies them. Once `sent`, nothing holds a view of
    the body any more: the buffer of the connection was seen empty.
    """

    _autoclose = True  # nothing to close: aiohttp would warn otherwise
    _transport: asyncio.WriteTransport | None = None
    sent = False
    protocol: Any = None  # stands for the connection
    over: asyncio.Future[None] | None = None  # made by who waits for the end

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.protocol = getattr(writer, "protocol", None)
        body = self._value
        if len(body) <= _COPIED:
            await writer.write(bytes(body))
            self.sent = True
            return
        self._transport = writer.transport
        if self._transport is not None:
            # Then drain waits until the buffer is empty, and not only until it is small. asyncio's TLS pauses at the
            # limit and not above it, so that with 0 it would be paused for ever.
            self._transport.set_write_buffer_limits(1 if self._transport.get_extra_info("sslcontext") else 0, 0)
        writer.send_headers()  # aiohttp would join them with the body, which copies it
        view = memoryview(body)
        try:
            await writer.write(view)
            await writer.drain()
            self.sent = True
        finally:
            with suppress(BufferError):  # uvloop holds it until the transport is gone
                view.release()
            if self.over is not None and not self.over.done():
                self.over.set_result(None)

    def is_sent(self) -> bool:
        """True if all was sent, even if the answer came before anybody noticed."""
        if not self.sent and self._transport is not None:
            self.sent = self._transport.get_write_buffer_size() == 0
        return self.sent

    def give_up(self) -> None:
        """Let go of the body if it was not sent to the end: a connection that is only closed would go on sending."""
        if self._transport is not None and not self.is_sent():
            self._transport.abort()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)


class _Connector(aiohttp.TCPConnector):
    """A pool of connections that goes without a word when it is forgotten; aiohttp's logs an error."""

    inherited = False  # by a fork: then the connections belong to the parent process

    def __del__(self, _warnings: Any = None) -> None:
        if not self.inherited:
            with suppress(Exception):
                self._close()


class _Line:
    """All that belongs to one event loop."""

    __slots__ = ("connector", "headers", "keeper", "proxy", "replies", "session", "used")

    def __init__(self, session: aiohttp.ClientSession, connector: _Connector, proxy: URL | None) -> None:
        self.session = session
        self.connector = connector
        self.proxy = proxy
        self.headers: CIMultiDict[str] | None = None
        self.keeper: AsyncGenerator[None, None] | None = None
        self.replies: set[Reply] = set()  # those being read: aiohttp leaves their readers waiting when it closes
        self.used: weakref.WeakSet[Any] = weakref.WeakSet()  # connections that have carried a request

    def drop(self) -> None:
        """Let go without the loop: it is closed, or stands still, or is another process's."""
        self.session.detach()
        if self.keeper is not None:
            # With the session detached, its end has nothing to wait for.
            with suppress(StopIteration, RuntimeError):
                self.keeper.aclose().send(None)


_Lines = dict[asyncio.AbstractEventLoop, _Line]


class Reply(Struct, eq=False):
    """An answer that is coming in. Whoever has it closes it."""

    response: aiohttp.ClientResponse
    content: aiohttp.StreamReader
    upload: _Upload
    line: _Line
    at: Transport
    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """All that has come since the last read, or else what comes next; b"" at the end. Raises Fault."""
        try:
            return await self.content.readany()
        except _HTTP_FAILURES as failure:
            # What had come before the connection broke is still in the buffer, and belongs to the answer.
            left = _left_over(self.content)
            if left:
                return left
            fault = self.at.broken_off(failure)
        raise fault

    async def drain(self, seconds: float) -> None:
        """Read to the end, so that the connection can be used again, but not for long: the answer is complete."""
        if not self.content.at_eof():
            with suppress(Fault, asyncio.TimeoutError):
                async with asyncio.timeout(seconds):
                    while await self.read():
                        pass

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it."""
        self.line.replies.discard(self)
        if self.line.connector.inherited:
            return
        if not self.response.closed:
            self.response.close()
        if not self.upload.sent:
            self.upload.give_up()


class Transport:
    """Posts to one endpoint, from any event loop, thread or forked process."""

    __slots__ = ("__weakref__", "_connect_timeout", "_endpoint", "_lines", "_read_timeout", "_url")

    def __init__(self, endpoint: Endpoint, *, connect_timeout: float, read_timeout: float) -> None:
        self._endpoint = endpoint
        self._url = URL(endpoint.url)
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._lines: _Lines = {}
        _TRANSPORTS.add(self)
        # The finalizer holds the lines: so they are part of no garbage cycle, and are closed in order.
        weakref.finalize(self, _let_go, self._lines).atexit = False

    async def post(self, body: bytes | bytearray) -> Reply:
        """Send the body; the reply begins with its status. Raises Fault if there is none.

        The body is read until this returns; a view of it is kept no longer.
        """
        line = self._lines.get(asyncio.get_running_loop()) or await self._open()
        headers = line.headers
        if headers is None:
            headers = _revealed(self._endpoint.headers)
        for attempt in (0, 1):
            upload = _Upload(body, content_type="application/json")
            upload._size = len(body)
            response = None
            try:
                response = await line.session.post(
                    self._url, data=upload, headers=headers, proxy=line.proxy, allow_redirects=False
                )
            except _HTTP_FAILURES as failure:
                fault = self._unanswered(failure, len(body))
                # One from the pool that the other side had closed has seen no request; it is replaced at once.
                stale = not attempt and _is_gone(failure) and upload.protocol in line.used
            finally:
                if upload.protocol is not None:
                    line.used.add(upload.protocol)
                if response is None:
                    upload.give_up()
            if response is not None:
                reply = Reply(response, response.content, upload, line, self, response.status, response.headers)
                line.replies.add(reply)
                if not upload.sent and response.status < 300 and not upload.is_sent():
                    await self._all_sent(upload, reply)
                return reply
            if not stale:
                break
        raise fault

    async def aclose(self) -> None:
        """Close all connections. The transport can be used again, and then opens new ones."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None and line.keeper is not None:
            await line.keeper.aclose()
        _let_go(self._lines)

    async def _open(self) -> _Line:
        """The line of the running loop. Nothing in here waits, so no two tasks open two."""
        loop = asyncio.get_running_loop()
        for other in [known for known in list(self._lines) if known.is_closed()]:
            self._lines.pop(other).drop()
        proxy = proxy_for(self._endpoint.url)
        connector = _Connector(limit=0, keepalive_timeout=_KEEP_ALIVE, socket_factory=_socket)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout, sock_read=self._read_timeout),
        )
        line = _Line(session, connector, URL(proxy) if proxy else None)
        if not callable(self._endpoint.headers):
            line.headers = _revealed(self._endpoint.headers)
        line.keeper = _kept(line, self._lines, loop)
        self._lines[loop] = line
        await anext(line.keeper)
        return line

    async def _all_sent(self, upload: _Upload, reply: Reply) -> None:
        """An answer began before the whole request was sent: nothing is handed on until it is."""
        upload.over = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((upload.over,), timeout=self._read_timeout)
        finally:
            if not upload.is_sent():
                reply.close()
        if not upload.sent:
            advice = f"Check {self._endpoint.setting}."
            what = f"{self._endpoint.origin} answered without having read the request. {advice}"
            raise self._fault(what, ServiceProtocolError)

    def _unanswered(self, failure: BaseException, size: int) -> Fault:
        """What went wrong before an answer began."""
        origin = self._endpoint.origin
        if isinstance(failure, aiohttp.ClientResponseError) and not isinstance(failure, aiohttp.ClientHttpProxyError):
            advice = f"Check {self._endpoint.setting}, also whether it should begin with https:// or http://."
            return self._fault(f"{origin} answered something that is not HTTP. {advice}", ServiceProtocolError)
        what, again = _told(failure, self._endpoint, self._connect_timeout, self._read_timeout)
        if size > 1_000_000 and _is_gone(failure):
            what += f" The request is large ({size / 1e6:.1f} MB); the service may not take so much."
        return self._fault(what, again=again)

    def broken_off(self, failure: BaseException) -> Fault:
        """What went wrong in the middle of an answer."""
        origin = self._endpoint.origin
        if isinstance(failure, aiohttp.SocketTimeoutError):
            return self._fault(f"{origin} has sent nothing more for {self._read_timeout:g} s amid an answer.")
        what = f"The answer of {origin} was cut off: the connection was closed before its end. Try again."
        return self._fault(what, again=True)

    def _fault(self, what: str, kind: type[ServiceError] = ServiceUnavailableError, *, again: bool = False) -> Fault:
        return Fault(kind(what, service=self._endpoint.service), again=again)


def _is_gone(failure: BaseException) -> bool:
    """True if the connection had been open, and was closed without an answer."""
    gone = isinstance(failure, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError))
    return gone and not isinstance(failure, aiohttp.ClientConnectorError)


_CHECK_PROXY = "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."


def _told(failure: BaseException, endpoint: Endpoint, connect_timeout: float, read_timeout: float) -> tuple[str, bool]:
    """A failure of the HTTP library in our words, and whether trying again may help."""
    origin, setting = endpoint.origin, endpoint.setting
    check_all = f"Check that the service runs, {setting}, and the proxy settings of the environment."
    if isinstance(failure, aiohttp.ClientHttpProxyError):
        what = f"The proxy on the way to {origin} refused the connection (status {failure.status}). {_CHECK_PROXY}"
        return what, failure.status >= 500
    if isinstance(failure, aiohttp.ClientProxyConnectionError):
        return f"The proxy on the way to {origin} cannot be reached ({_reason(failure)}). {_CHECK_PROXY}", True
    if isinstance(failure, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)):
        advice = f"Check {setting} and the system's certificates (SSL_CERT_FILE)."
        return f"No safe connection to {origin} ({_reason(failure)}). {advice}", False
    if isinstance(failure, aiohttp.ClientConnectorDNSError):
        return f"The host of {origin} is not known ({_reason(failure)}). Check {setting} and the network.", True
    if isinstance(failure, aiohttp.ClientConnectorError):
        return f"Cannot connect to {origin} ({_reason(failure)}). {check_all}", True
    if isinstance(failure, aiohttp.SocketTimeoutError):
        return f"{origin} has sent nothing for {read_timeout:g} s. Raise read_timeout if it may take longer.", False
    if isinstance(failure, (aiohttp.InvalidURL, UnicodeError)):
        return f"{origin} is no address that can be connected to. Check {setting}.", False
    if isinstance(failure, asyncio.TimeoutError):
        return f"No connection to {origin} within {connect_timeout:g} s. {check_all}", True
    return f"{origin} closed the connection before it answered. Try again later.", True


def _reason(failure: aiohttp.ClientConnectorError) -> str:
    """The operating system's words; the exception's own would name the proxy with its password."""
    inner: Any = failure.os_error
    return str(getattr(inner, "verify_message", None) or inner.strerror or type(inner).__name__)[:200]


def _left_over(content: aiohttp.StreamReader) -> bytes:
    """What the reader holds but does not give out any more, since an exception was set on it."""
    buffer: Any = getattr(content, "_buffer", [])
    left = b"".join(buffer)
    buffer.clear()
    return left


def _revealed(headers: Headers | Callable[[], Headers]) -> CIMultiDict[str]:
    found = headers() if callable(headers) else headers
    return CIMultiDict((name, secret.reveal()) for name, secret in found.items())


def _socket(address: Any) -> socket.socket:
    """A socket that asks now and then whether the other side is there: a model may think for minutes in silence."""
    family, kind, protocol = address[:3]
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 5)):
        if hasattr(socket, name):  # macOS and Windows lack some
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


async def _kept(line: _Line, lines: _Lines, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    """Keeps a session for as long as its loop.

    asyncio closes the async generators of a loop at its end; this is how the session hears of that.
    """
    try:
        yield
    finally:
        if lines.get(loop) is line:
            del lines[loop]
        for reply in list(line.replies):
            reply.close()
        await line.session.close()


def _let_go(lines: _Lines) -> None:
    """Close what is open, each on its own loop."""
    for loop, line in list(lines.items()):
        lines.pop(loop, None)
        if loop.is_running() and not loop.is_closed():
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(_close_soon, loop, line)
                continue
        line.drop()


def _close_soon(loop: asyncio.AbstractEventLoop, line: _Line) -> None:
    if line.keeper is not None:
        task = loop.create_task(line.keeper.aclose())
        _CLOSING.add(task)
        task.add_done_callback(_CLOSING.discard)


_TRANSPORTS: weakref.WeakSet[Transport] = weakref.WeakSet()
_CLOSING: set[asyncio.Task[None]] = set()
_INHERITED: list[_Line] = []


def _drop_all(*, inherited: bool = False) -> None:
    for transport in list(_TRANSPORTS):
        for line in list(transport._lines.values()):
            line.connector.inherited = inherited
            line.drop()
            if inherited:
                _INHERITED.append(line)
        transport._lines.clear()


atexit.register(_drop_all)
if hasattr(os, "register_at_fork"):
    # A child leaves its parent's connections alone, and keeps them: closing them would disturb the parent's.
    os.register_at_fork(after_in_child=lambda: _drop_all(inherited=True))
