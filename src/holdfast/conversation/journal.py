"""Journal: what an open run writes down of itself, so that its death loses little and others can follow it.

Rule of this file: records are JSON, and only ever appended. Each says at which place of the turn it stands (see
`cursors`), so reading needs no state:

    {"e": 7, "at": 0,  "said": [["text", "Ahoy"], ["call", 0, "call_1", "weather", "{"]]}   pieces of an answer
    {"e": 7, "at": 0,  "done": [message, ...]}      a whole answer, and the results of its calls; takes the place of
                                                    what was said since that place
    {"e": 9, "at": 31, "again": true}               another writer asks again from here: what was said after is void
                                                    as soon as it says something
    {"e": 7, "at": 31, "started": ["call_1"],       these calls are about to be made: on disk before any is
     "decided": {"call_1": {"approved": true}}}     somebody has allowed or forbidden them
    {"e": 7, "at": 31, "result": message}           the result of a call that others before it still wait for
    {"e": 7, "at": 31, "waits": [request, ...]}     the run waits for somebody to allow these calls
    {..., "used": {"input_tokens": ...}, "asked": 2}   beside an answer: the tokens so far, how often was asked

`e` is the epoch of the writer. docs/format.md describes the form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.cursors import units, updates_of
from holdfast.conversation.messages import ChatMessage, ToolResultContent
from holdfast.conversation.records import decode_messages, encode_messages
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    FinishUpdate,
    ReasoningUpdate,
    RefusalUpdate,
    ToolCallUpdate,
    Usage,
)


class Decision(Struct, frozen=True, omit_defaults=True):
    """Somebody's word on a call that needed one."""

    approved: bool
    why: str = ""
    by: str = ""


class Entry(Struct, omit_defaults=True):
    """One record. `at` is the place where it begins."""

    e: int
    at: int
    said: list[list[Any]] | None = None
    done: Raw = Raw()
    again: bool = False
    started: list[str] = []
    decided: dict[str, Decision] = {}
    result: Raw = Raw()
    waits: list[ApprovalRequest] = []
    used: Usage | None = None
    asked: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it holds a whole answer."""
        return bool(bytes(self.done))

    @property
    def updates(self) -> list[AgentRunResponseUpdate]:
        """What it says, as updates."""
        if bytes(self.done):
            return updates_of(decode_messages(bytes(self.done)))
        return [_update(piece) for piece in self.said or ()]


class Recorded(Struct):
    """All of a journal, folded: whole answers and results, the pieces of the answer that was cut off, restarts."""

    messages: list[ChatMessage]
    pieces: list[AgentRunResponseUpdate]
    place: int = 0  # where the pieces begin
    restarts: tuple[tuple[int, int], ...] = ()
    started: set[str] = set()  # calls that were made, or about to be
    results: dict[str, ChatMessage] = {}  # of calls that are not among the messages
    decided: dict[str, Decision] = {}
    waits: dict[str, ApprovalRequest] = {}
    used: Usage | None = None
    asked: int = 0
    is_parked: bool = False  # it ends with what the run waits for: nothing was said since


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def said(epoch: int, at: int, updates: Iterable[AgentRunResponseUpdate]) -> bytes:
    """The record of pieces of an answer, as few as say the same."""
    pieces: list[list[Any]] = []
    for update in updates:
        piece = _piece(update)
        if piece is None:
            continue
        if pieces and len(piece) == 2 and pieces[-1][0] == piece[0]:
            pieces[-1].append(piece[1])
        else:
            pieces.append(piece)
    entry = Entry(epoch, at, said=[[piece[0], "".join(piece[1:])] if _is_text(piece) else piece for piece in pieces])
    try:
        return _encode(entry)
    except UnicodeEncodeError:  # half of a surrogate pair, whose other half comes later
        return json.dumps({"e": epoch, "at": at, "said": entry.said}).encode()


def done(epoch: int, at: int, messages: Sequence[ChatMessage], used: Usage | None = None, asked: int = 0) -> bytes:
    """The record of a whole answer, or of results of its calls; with what the turn has used so far."""
    return _encode(Entry(epoch, at, done=Raw(encode_messages(messages)), used=used, asked=asked))


def started(epoch: int, at: int, calls: Sequence[str], decided: Mapping[str, Decision]) -> bytes:
    """The record of calls that are about to be made, and of what was decided about calls."""
    return _encode(Entry(epoch, at, started=list(calls), decided=dict(decided)))


def result(epoch: int, at: int, message: ChatMessage) -> bytes:
    """The record of one call's result, out of its turn."""
    (stored,) = msgspec.json.decode(encode_messages([message]), type=list[Raw])
    return _encode(Entry(epoch, at, result=stored))


def waits(epoch: int, at: int, requests: Sequence[ApprovalRequest]) -> bytes:
    """The record of a run that waits for these calls to be allowed."""
    return _encode(Entry(epoch, at, waits=list(requests)))


def again(epoch: int, at: int) -> bytes:
    """The record of a writer that asks again."""
    return _encode(Entry(epoch, at, again=True))


def entries(records: Iterable[bytes]) -> list[Entry]:
    """The records, up to the first one that this version cannot read."""
    found: list[Entry] = []
    for record in records:
        try:
            found.append(_decode(record))
        except msgspec.DecodeError:
            try:
                found.append(_with_halves(record))
            except (ValueError, TypeError, KeyError):
                break
    return found


def recorded(records: Iterable[bytes]) -> Recorded:
    """What a journal says. Raises DamagedError for messages that cannot be read."""
    found = Recorded([], [])
    void = False
    for entry in entries(records):
        found.used, found.asked = entry.used or found.used, entry.asked or found.asked
        found.is_parked = bool(entry.waits)
        if entry.again:
            found.restarts += ((entry.e, entry.at),)
            void = True  # once the new writer has said something; should it die before, what there is stands
        elif entry.is_whole:
            found.messages.extend(decode_messages(bytes(entry.done)))
            found.place = entry.at + sum(map(units, entry.updates))
            found.pieces, void = [], False
        elif entry.said is not None:
            found.pieces = entry.updates if void else found.pieces + entry.updates
            void = False
        else:
            _take_effects(found, entry)
    return found


def _take_effects(found: Recorded, entry: Entry) -> None:
    found.started.update(entry.started)
    found.decided.update(entry.decided)
    if bytes(entry.result):
        for message in decode_messages(b"[%b]" % bytes(entry.result)):
            for part in message.contents:
                if isinstance(part, ToolResultContent):
                    found.results[part.call_id] = message
    if entry.waits:
        found.waits = {request.call_id: request for request in entry.waits}


def _with_halves(record: bytes) -> Entry:
    """A record with halves of surrogate pairs in it, which only the standard library's JSON reads."""
    found = json.loads(record)
    return Entry(int(found["e"]), int(found["at"]), said=[list(piece) for piece in found["said"]])


def _is_text(piece: list[Any]) -> bool:
    return piece[0] in ("text", "reasoning", "refusal")


def _piece(update: AgentRunResponseUpdate) -> list[Any] | None:
    if type(update) is AgentRunResponseUpdate:
        return ["text", update.text]
    if isinstance(update, ToolCallUpdate):
        return ["call", update.index, update.call_id, update.name, update.arguments]
    if isinstance(update, ReasoningUpdate):
        return ["reasoning", update.reasoning]
    if isinstance(update, RefusalUpdate):
        return ["refusal", update.refusal]
    if isinstance(update, FinishUpdate):
        return ["finish", update.finish_reason, update.model, update.response_id]
    return None


def _update(piece: list[Any]) -> AgentRunResponseUpdate:
    """The update that a piece stands for; one that says nothing, for a kind that this version does not know."""
    kind, *values = piece
    if kind == "text":
        return AgentRunResponseUpdate(str(values[0]))
    if kind == "reasoning":
        return ReasoningUpdate(reasoning=str(values[0]))
    if kind == "refusal":
        return RefusalUpdate(refusal=str(values[0]))
    if kind == "call" and len(values) == 4:
        index, call_id, name, arguments = values
        return ToolCallUpdate(index=int(index), call_id=str(call_id), name=str(name), arguments=str(arguments))
    if kind == "finish" and len(values) == 3:
        return FinishUpdate(finish_reason=values[0], model=values[1], response_id=values[2])
    return AgentRunResponseUpdate()
