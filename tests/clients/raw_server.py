"""A server that plays raw bytes, for what a well-made stand-in cannot do; and short ways to ask a client."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from holdfast.clients.openai_chat import OpenAIChatClient
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.clients import ChatOptions, ChatRequest

Play = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Hangup(bytes):
    """These bytes, then the end of the connection."""


class Wire:
    """Plays the next answer for each request; the last one again and again. Keeps heads, bodies and connections."""

    def __init__(self) -> None:
        self.answers: list[Play] = []
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()  # the client closed a connection

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._converse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            with suppress(ConnectionError):
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if callable(answer):
                await answer(reader, writer)
                return
            lengths = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
            self.bodies.append(await reader.readexactly(int(lengths[0].split(":")[1])))
            writer.write(bytes(answer))
            await writer.drain()
            if isinstance(answer, Hangup):
                return


def http(
    body: Any = b"", status: int = 200, kind: str = "application/json", headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole answer with its length."""
    content: bytes = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def sse(*payloads: Any) -> bytes:
    """A whole stream of events, with its length."""
    texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
    return http("".join(f"data: {text}\n\n" for text in texts).encode(), kind="text/event-stream")


def delta(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    found = {} if text is None else {"content": text}
    return {"id": "r1", "model": "m1", "choices": [{"index": 0, "delta": found, "finish_reason": finish}]}


def answer(text: str = "Ahoy!") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "r1", "model": "m1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


GOOD = http(answer())


def request(
    client: OpenAIChatClient, text: str = "Hello", *, stream: bool = False, options: ChatOptions | None = None
) -> ChatRequest:
    """A request with one message, as the engine makes them."""
    options = options or ChatOptions()
    codec = client.codec
    body = bytearray(codec.head(None) + codec.message(ChatMessage("user", text=text)))
    body[-1:] = codec.tail(options, stream=stream)
    return ChatRequest(body, options, stream)


async def asked(client: OpenAIChatClient, text: str = "Hello", *, stream: bool = False) -> list[AgentRunResponseUpdate]:
    """All updates of one answer."""
    return [update async for batch in client.ask(request(client, text, stream=stream)) for update in batch]


async def said(client: OpenAIChatClient, text: str = "Hello", *, stream: bool = False) -> str:
    return "".join([update.text for update in await asked(client, text, stream=stream)])


async def until_it_fails(client: OpenAIChatClient, texts: list[str], wait: asyncio.Event | None = None) -> None:
    """Collect the texts of a streamed answer. With `wait`, read on only after that, and a little later."""
    async for batch in client.ask(request(client, stream=True)):
        texts += [update.text for update in batch]
        if wait is not None:
            await wait.wait()
            await asyncio.sleep(0.05)
