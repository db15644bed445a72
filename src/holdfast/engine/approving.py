"""Approving: somebody's word on tool calls that wait for it, from whichever process, once.

Rule of this file: an answer is checked against what the run has written down, and used by whoever then takes the run
over; of two that answer at once, one is told that it came too late. That it was used is on disk before the call is
begun, in the same commit.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from holdfast.conversation.approvals import ApprovalAnswer, ApprovalRequest, digest_of
from holdfast.conversation.errors import ApprovalError
from holdfast.conversation.journal import Recorded, recorded
from holdfast.conversation.turns import unanswered_calls
from holdfast.engine.handles import Handle
from holdfast.engine.recovery import left_over, take_left_over
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import OpenRun


async def requests_on(handle: Handle) -> list[ApprovalRequest]:
    """The calls that wait to be allowed on a thread."""
    left = await left_over(handle, waiting=True)  # also what a process left that died before it used an answer
    return [] if left is None else requests_in(recorded(left[1]))


def requests_in(before: Recorded) -> list[ApprovalRequest]:
    """The calls that wait to be allowed, as a journal has it."""
    return [
        before.waits[call.call_id]
        for call in unanswered_calls(before.messages)
        if call.call_id in before.waits and _is_open(call.call_id, before)
    ]


async def take_answered(
    handle: Handle, answers: Sequence[ApprovalAnswer], runtime: Runtime, tools: Container[str] | None
) -> OpenRun:
    """Become the writer of the run that waits for these answers.

    `tools` are the names of those that can be called here, if that is known. Raises ApprovalError if the answers count
    for nothing.
    """
    turn_id = answers[0].turn_id
    left = await left_over(handle, waiting=True)
    if left is None:
        info = await handle.info()
        if info is not None and info.busy == turn_id:
            raise _refused(handle, turn_id, "is gone on with by somebody else at this moment; try again")
    if left is None or left[0].turn_id != turn_id:
        raise _refused(handle, turn_id, "no longer waits for it: it was answered, or the conversation has gone on")
    run, records = left
    before = recorded(records)
    for answer in answers:
        _check(handle, answer, before, runtime, tools)
    taken = await take_left_over(handle, run, runtime)
    if taken is None:
        raise _refused(handle, turn_id, "was answered by somebody else at the same moment")
    return taken


def _check(
    handle: Handle, answer: ApprovalAnswer, before: Recorded, runtime: Runtime, tools: Container[str] | None
) -> None:
    call = next((call for call in unanswered_calls(before.messages) if call.call_id == answer.call_id), None)
    if call is None or not _is_open(answer.call_id, before):
        raise _refused(handle, answer.turn_id, f"has no open call {answer.call_id!r}: it was answered already")
    if digest_of(call) != answer.digest:
        raise _refused(handle, answer.turn_id, f"wants to call {call.name} with other arguments than those answered")
    if answer.approved and tools is not None and call.name not in tools:
        raise _refused(
            handle, answer.turn_id, f"wants to call {call.name}, and the agent that was asked has no such tool"
        )
    request = before.waits.get(answer.call_id)
    if request is None:
        raise _refused(handle, answer.turn_id, f"has not asked for call {answer.call_id!r} to be allowed")
    if answer.approved and request.expires_us is not None and runtime.now_us() >= request.expires_us:
        until = f"{request.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        raise _refused(handle, answer.turn_id, f"could be allowed call {answer.call_id!r} until {until}, and not later")


def _is_open(call_id: str, before: Recorded) -> bool:
    return call_id not in before.started and call_id not in before.decided and call_id not in before.results


def _refused(handle: Handle, turn_id: str, why: str) -> ApprovalError:
    return ApprovalError(
        f"This answer was not used, and nothing was done: turn {turn_id} on thread {handle.id!r} {why}. "
        "thread.approvals() tells what waits now.",
        thread_id=handle.id,
        turn_id=turn_id,
    )
