"""The gate: a relay before the service, for faults that strike before HTTP begins.

Rule of this file: it knows bytes and connections, and nothing of what is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal, Self, TypeAlias

# What it does with a connection: hand everything on; close it, or reset it, as soon as it is there; send nonsense.
# "shut" takes none at all.
Manner: TypeAlias = Literal["relay", "shut", "close", "reset", "garbage"]

_NO_LINGER = struct.pack("ii", 1, 0)  # closing sends RST
_BLOCK = 1 << 18


class Gate:
    """Listens, and relays to another port of this machine. An async context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._relays: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._manner: Manner = "relay"
        self._left = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drop()
        if self._server is not None:
            self._server.close()

    async def become(self, manner: Manner, connections: int) -> None:
        """Treat the next connections in this manner. Those that are open are closed: they would be used again."""
        await self.drop()
        self._manner, self._left = manner, connections
        if manner == "shut" and self._server is not None:
            self._server.close()
            self._server = None

    async def heal(self) -> None:
        """Relay again."""
        self._manner = "relay"
        if self._server is None:
            await self._listen()

    async def drop(self) -> None:
        """Close all connections."""
        tasks = list(self._relays)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._relays)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port, limit=_BLOCK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays[task] = writer
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            del self._relays[task]
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._manner != "relay" and self._left > 0:
            self._left -= 1
            self._spoil(writer)
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target, limit=_BLOCK)
        pumps = [asyncio.ensure_future(_pump(reader, back)), asyncio.ensure_future(_pump(there, writer))]
        try:
            # Whichever side ends first, ends both: HTTP has no half-closed connections.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if pumps[1].done() and pumps[1].exception() is not None:
                _reset(writer)  # what broke there breaks here
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.close()

    def _spoil(self, writer: asyncio.StreamWriter) -> None:
        if self._manner == "reset":
            _reset(writer)
        elif self._manner == "garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BLOCK):
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
