"""The strict stand-in that calls tools, as a process of its own, which writes down what it was asked.

Rule of this file: the stand-in is holdfast's own, with all its rules; it calls for what the text asks for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.testing.openai_chat import CallTools, ChatCompletionsStandIn, ParsedRequest, Say
from holdfast.testing.standin_journal import RecordedRequest
from holdfast.testing.standin_tapes import Answer, Tape
from rigs.evidence import Pen
from rigs.processes import fork
from rigs.service import KEY
from rigs.talk import MODEL
from rigs.tools_evidence import Exchanged
from rigs.tools_talk import answered_next


def _reply(request: ParsedRequest) -> Answer:
    found = answered_next(request.messages, may_call=request.body.get("tool_choice") != "none")
    return Say(found) if isinstance(found, str) else CallTools(found)


def exchanged(told: Any, refusal: str | None) -> Exchanged:
    """A request's body as it is written down."""
    messages = [one for one in told.get("messages") or () if isinstance(one, dict)] if isinstance(told, dict) else []
    calls = [str(call.get("id")) for message in messages for call in message.get("tool_calls") or ()]
    results = [message for message in messages if message.get("role") == "tool"]
    return Exchanged(
        time.monotonic(),
        tuple(calls),
        tuple(str(message.get("tool_call_id")) for message in results),
        tuple(str(message.get("content")) for message in results),
        refusal,
    )


class _StandIn(ChatCompletionsStandIn):
    """Writes each request down before it answers."""

    def __init__(self, pen: Pen) -> None:
        super().__init__(reply=_reply, api_key=KEY, models=[MODEL], chunk_delay=0.0005, keep=16)
        self._pen = pen

    def answer(self, record: RecordedRequest, headers: Mapping[str, str]) -> Tape:
        tape = super().answer(record, headers)
        self._pen.write(exchanged(record.json, record.refusal))
        return tape


@contextlib.contextmanager
def serving(written: Path) -> Iterator[str]:
    """Its address, as long as it serves. The caller must have used no event loop and no thread."""
    (reads, told), (halt, holds) = os.pipe(), os.pipe()

    def work() -> None:
        os.close(holds)
        with _StandIn(Pen(written)) as service:
            os.write(told, service.base_url.encode())
            os.close(told)
            os.read(halt, 1)  # until nobody holds the other end

    child = fork(work)
    os.close(told)
    os.close(halt)
    try:
        address = os.read(reads, 1000).decode()
        if not address:
            raise RuntimeError("the service did not start")
        yield address
    finally:
        os.close(reads)
        os.close(holds)
        os.waitpid(child, 0)
