"""A stub of a Chat Completions service for the benches: the least that can answer, in a process of its own.

It checks nothing and keeps nothing, so that the other core is not what is measured.

    python bench/stub.py      prints its port; POST /v1/chat/completions
                              the model's name says what comes: "one", "burst:N" or "natural:N"
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

ANSWER = "The quick answer of a small model, about as long as a line of chat usually is. " * 2


def whole() -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "one",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    data = json.dumps(
        {
            "id": "chatcmpl-9aBcDeFgHiJkLmNoPqRsTuVw",
            "object": "chat.completion.chunk",
            "created": 1763800000,
            "model": "gpt-4o-mini-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": "fp_0123456789",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        },
        separators=(",", ":"),
    )
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = chunk({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n" + b"0\r\n\r\n"


class Stub(asyncio.Protocol):
    """One connection. Requests come one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.head = b""
        self.missing = -1
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            lower = self.head[:end].lower()
            at = lower.index(b"content-length:") + 15
            length = int(lower[at : (lower + b"\r\n").index(b"\r\n", at)])
            data = self.head[end + 4 :]
            self.missing, self.head = length, b""
        self.missing -= len(data)
        self.tail = (self.tail + data)[-400:]
        if self.missing == 0:
            self.missing = -1
            tail, self.tail = self.tail, b""
            asyncio.get_running_loop().create_task(self.answer(tail))

    async def answer(self, tail: bytes) -> None:
        for kind in (b"burst:", b"natural:"):
            at = tail.find(kind)
            if at >= 0:
                count = int(tail[at + len(kind) : tail.index(b'"', at)])
                return await self.stream(count, natural=kind == b"natural:")
        self.transport.write(WHOLE)

    async def stream(self, count: int, *, natural: bool) -> None:
        piece = chunk({"content": " word"})
        self.transport.write(STREAM_HEAD)
        if not natural:
            self.transport.write(piece * count + STREAM_END)
            return
        for number in range(count):
            self.transport.write(piece)
            if number % 4 == 3:  # other work of a server between tokens
                await asyncio.sleep(0)
        self.transport.write(STREAM_END)


WHOLE = whole()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


class StubProcess:
    """The stub, started and stopped by a bench."""

    def __enter__(self) -> str:
        self.process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        return f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve())
