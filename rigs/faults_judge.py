"""The judge of service faults: what was said to the service, what the caller was told, and what is in the log.

Rule of this file: pure. It knows what the service meant to say (`rigs.faults_talks`), what it did instead
(`rigs.faults_kinds`), and makes the messages of each request anew from the log, in a few lines of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from holdfast import (
    ChatMessage,
    HoldfastError,
    IdempotencyKeyError,
    RefusalContent,
    ServiceError,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    Turn,
)
from rigs.faults_play import RETRIES, Played, Point, Spoken
from rigs.oracle import Violation

_LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,40}")
_MADE_UP = re.compile(r"call_[0-9a-f]{20}_")


def judge(played: Played) -> list[Violation]:
    """All that is wrong with a conversation."""
    found = [Violation("leaked connection", what) for what in played.left]
    found += _order(played)
    for n, spoken in enumerate(played.spoken):
        turn = next((turn for turn in spoken.turns if turn.id == spoken.turn_id), None)
        found += _requests(played, spoken, turn)
        found += _told(spoken, turn)
        if played.point is not None:
            found += _wrong_turn(played.point, spoken) if n == 0 else _sound_turn(spoken)
    return found


# --- what was asked ------------------------------------------------------------------------------------------------


def _requests(played: Played, spoken: Spoken, turn: Turn | None) -> Iterator[Violation]:
    """Every request holds the conversation so far, each message once, and is accepted."""
    name = f"run {spoken.said!r}"
    for asked in spoken.asked:
        if asked.refusal is not None:
            yield Violation("request refused", f"{name}: {asked.refusal}")
    if turn is None:
        if spoken.asked:
            yield Violation("request without a turn", f"{name} asked, and is not in the log")
        return
    history = [told for before in spoken.turns[: spoken.turns.index(turn)] for told in _sent(before)]
    if played.instructions:
        history.insert(0, ("system", played.instructions, ()))
    users = [told for told in history if told[0] == "user"]
    if len(users) != len({told[1] for told in users}):
        yield Violation("user message doubled", f"{name}: {[text for _, text, _ in users]}")
    steps = [[*history, *(_plain(message) for message in turn.input)]]
    for message in turn.output:
        if (plain := _plain(message)) is not None:
            steps.append([*steps[-1], plain])
    for asked in spoken.asked:
        if not any(_fits([_seen(message) for message in asked.messages], step) for step in steps):
            told = [(role, text) for role, text, _ in map(_seen, asked.messages)]
            yield Violation("request does not fit", f"{name}: {told} was sent, which is not what is in the log")


Told = tuple[str, str, tuple[str, ...]]


def _fits(told: Sequence[Told], logged: Sequence[Told | None]) -> bool:
    """Whether these are the messages of the log. What no service takes as an id or a name is told in other words."""
    return len(told) == len(logged) and all(a == b or _in_other_words(a, b) for a, b in zip(told, logged, strict=True))


def _in_other_words(told: Told, logged: Told | None) -> bool:
    if logged is None or told[:2] != logged[:2] or len(told[2]) != len(logged[2]):
        return False
    return all(a == b or not _LEGAL.fullmatch(b) for a, b in zip(told[2], logged[2], strict=True))


def _sent(turn: Turn) -> list[Told]:
    """What of a turn the service is told in later turns."""
    if turn.status == "failed" and not turn.output:
        return []
    return [plain for message in turn.messages if (plain := _plain(message)) is not None]


def _plain(message: ChatMessage) -> Told | None:
    """A message as the log has it: role, text, ids and names of calls, ids of results.

    None if the service is not told of it.
    """
    text, ids = "", []
    for part in message.contents:
        if isinstance(part, (TextContent, RefusalContent)):
            text += part.text
        elif isinstance(part, ToolCallContent):
            ids += [part.call_id, part.name]
        elif isinstance(part, ToolResultContent):
            text, ids = part.result, [part.call_id]
    return (message.role, text, tuple(ids)) if text.strip() or ids else None


def _seen(message: dict[str, Any]) -> Told:
    """A message as the service was told it."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or part.get("refusal") or "" for part in content)
    text = (content or "") + (message.get("refusal") or "")
    ids = [word for call in message.get("tool_calls") or () for word in (call["id"], call["function"]["name"])]
    if message["role"] == "tool":
        ids = [message["tool_call_id"]]
    return message["role"], text, tuple(ids)


# --- what the caller was told --------------------------------------------------------------------------------------


def _told(spoken: Spoken, turn: Turn | None) -> Iterator[Violation]:
    """What was said to the caller is in the log, and nothing is there that it was not told."""
    name = f"run {spoken.said!r}"
    if spoken.error is not None and not isinstance(spoken.error, HoldfastError):
        yield Violation("untyped error", f"{name}: {type(spoken.error).__name__}: {spoken.error}")
    if spoken.error is None and not spoken.left and spoken.read != spoken.whole:
        yield Violation("half an answer", f"{spoken.read!r} was taken for all of {spoken.whole!r}")
    if turn is None:
        if spoken.error is None or spoken.asked:
            yield Violation("turn lost", f"{name} is not in the log")
        return
    text = "".join(message.text for message in turn.output if message.role == "assistant")
    if text != spoken.read and not isinstance(spoken.error, IdempotencyKeyError):
        yield Violation("not what was read", f"{name}: {text[:80]!r} is in the log, {spoken.read[:80]!r} was read")
    expected = "cancelled" if spoken.left else "completed" if spoken.error is None else "failed"
    if turn.status != expected and not isinstance(spoken.error, IdempotencyKeyError):
        yield Violation("bad status", f"{name} is {turn.status} in the log, and was told {spoken.error!r}")
    response = getattr(spoken.error, "response", None)
    if isinstance(spoken.error, ServiceError) and (response is None or response.messages != turn.output):
        yield Violation("bad status", f"{name}: its error holds {response}, the log {turn.output}")
    calls = [part.call_id for message in turn.output for part in message.tool_calls]
    results = [
        part.call_id for message in turn.output for part in message.contents if isinstance(part, ToolResultContent)
    ]
    if sorted(calls) != sorted(results) or len(calls) != len(set(calls)):
        yield Violation("unpaired", f"{name}: calls {calls}, results {results}")


def _wrong_turn(point: Point, spoken: Spoken) -> Iterator[Violation]:
    """The turn in which the service failed ends in the error that fits, or all the same."""
    kind, error = point.kind, spoken.error
    if error is not None and (kind.harmless or not isinstance(error, kind.raises)):
        yield Violation("error that does not fit", f"{type(error).__name__}: {error}")
    yield from _tries(point, spoken)


def _tries(point: Point, spoken: Spoken) -> Iterator[Violation]:
    """It was tried again where that helps, as often as may be, and not before the service wished it."""
    kind, error = point.kind, spoken.error
    spoilt = [asked.spoilt for asked in spoken.asked]
    before = kind.gate is not None  # the service has not seen those
    unread = not point.streamed or point.spot in (None, 0)
    if error is not None and kind.passes and unread and point.times <= RETRIES:
        yield Violation("not tried again", f"after {spoilt.count(True)} tries: {error}")
    same = max((sum(other.messages == one.messages for other in spoken.asked) for one in spoken.asked), default=0)
    # A connection that was used before and ends without an answer is replaced at once, which counts as no try.
    if same > RETRIES + 1 + (kind.name.startswith("cut") and point.spot is None):
        yield Violation("tried too often", f"{same} times")
    if same > 1 and not kind.passes and not kind.harmless:
        yield Violation("tried in vain", f"{same} times: {error}")
    if kind.waits is not None and spoken.waits[:1] != (kind.waits,):
        yield Violation("did not wait", f"{spoken.waits} s; the service asked for {kind.waits} s")
    if kind.passes and not before and sum(spoilt) > 1 and len(spoken.waits) < sum(spoilt) - 1:
        yield Violation("did not wait", f"{len(spoken.waits)} times, and tried {sum(spoilt)} times")


def _sound_turn(spoken: Spoken) -> Iterator[Violation]:
    """What is said afterwards, to a service that is sound again, goes well."""
    if spoken.error is not None:
        yield Violation("wedged thread", f"run {spoken.said!r}: {type(spoken.error).__name__}: {spoken.error}")


def _order(played: Played) -> Iterator[Violation]:
    """The turns stand in the log in the order in which they were said."""
    said = [spoken.turn_id for spoken in played.spoken if spoken.turn_id is not None]
    stored = [turn.id for turn in played.turns if turn.id in set(said)]
    if [turn_id for turn_id in said if turn_id in set(stored)] != stored:
        yield Violation("bad order", f"{said} were said, {stored} is stored")


# --- two logs of the same answers ----------------------------------------------------------------------------------


def differences(streamed: Sequence[Turn], whole: Sequence[Turn]) -> Iterator[Violation]:
    """What differs between two logs of the same answers, one of streams and one of answers in one piece."""
    one, other = [[_form(turn) for turn in turns] for turns in (streamed, whole)]
    if one != other:
        yield Violation("logs differ", f"streamed {json.dumps(one)[:300]}, in one piece {json.dumps(other)[:300]}")


def _form(turn: Turn) -> list[Any]:
    """A turn without its id and its times, and what is made of them: names of calls whose service gave them none."""
    told = [
        [message.role, *(_MADE_UP.sub("call_(turn)_", str(part)) for part in message.contents)]
        for message in turn.messages
    ]
    return [turn.status, told, turn.finish_reason, turn.model, str(turn.usage), turn.error and turn.error.code]
