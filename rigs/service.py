"""The strict stand-in as a process of its own, which writes down what it was asked.

Rule of this file: the stand-in is holdfast's own, with all its rules. Only its journal is another one: a file, of
which the oracle can read while the service runs, and in which a message is a fingerprint.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from holdfast.testing.openai_chat import ChatCompletionsStandIn, ParsedRequest, Say
from holdfast.testing.standin_journal import RecordedRequest
from holdfast.testing.standin_tapes import Pause, Tape
from rigs.evidence import Pen, Request
from rigs.talk import MODEL, answer_to, fingerprint, pieces_of, token_in

KEY = "sk-of-the-rigs"


def _reply(request: ParsedRequest) -> Say:
    return Say(pieces=pieces_of(answer_to(request.text, len(request.messages))))


class WritingStandIn(ChatCompletionsStandIn):
    """Writes each request down before it answers. Takes as long for an answer in one piece as for a streamed one."""

    def __init__(self, *, thinks: float) -> None:
        super().__init__(reply=_reply, api_key=KEY, models=[MODEL], chunk_delay=thinks / 8, keep=16)
        self._thinks = thinks
        self.pen: Pen | None = None

    def answer(self, record: RecordedRequest, headers: Mapping[str, str]) -> Tape:
        tape = super().answer(record, headers)
        asked = record.json if isinstance(record.json, dict) else {}
        messages = [message for message in asked.get("messages") or () if isinstance(message, dict)]
        seen = tuple(fingerprint(str(message.get("role")), str(message.get("content"))) for message in messages)
        token = token_in(str(messages[-1].get("content"))) if messages else ""
        if self.pen is not None:
            self.pen.write(Request(token, seen, record.refusal))
        return tape if asked.get("stream") else (Pause(self._thinks), *tape)


async def serve(folder: Path, thinks: float, told: int, halt: int) -> None:
    """Serve until the other end of the pipe `halt` is closed. The address goes into the pipe `told`."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(halt, ended.set)
    service = WritingStandIn(thinks=thinks)
    service.pen = Pen(folder)
    async with service:
        os.write(told, service.base_url.encode())
        os.close(told)
        await ended.wait()
