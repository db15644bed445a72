"""Endings: how a turn ends, given what was raised, and the words for it."""

from __future__ import annotations

from holdfast.conversation.errors import (
    AnswerFormatError,
    HoldfastError,
    RunCancelledError,
    RunTimeoutError,
    StaleRunError,
)
from holdfast.conversation.turns import TurnError, TurnStatus
from holdfast.conversation.updates import sound

# What the model is told of calls that the end of a turn left without a result.
WHY_NOT_MADE: dict[TurnStatus, str] = {
    "completed": "The limit of tool calls in one turn was reached; this call was not made.",
    "failed": "The run failed; this call was not made.",
    "cancelled": "The run was cancelled; this call was not made.",
    "interrupted": "The run was interrupted; this call was not made.",
}
# The same of calls that waited to be allowed when something else was said, or the run was cancelled.
SUPERSEDED = "This call waited to be allowed, and the conversation went on without it; it was not made."


def status_after(error: BaseException | None) -> TurnStatus:
    """How a turn ends that ends with this error, or with none."""
    if error is None:
        return "completed"
    if isinstance(error, RunCancelledError):
        return "cancelled"
    # Whatever is no Exception (a closed generator, a cancelled task, Ctrl-C) is somebody's wish to stop.
    return "failed" if isinstance(error, Exception) else "cancelled"


def turn_error(error: BaseException | None) -> TurnError:
    """The error as the log keeps it."""
    if isinstance(error, HoldfastError):
        return TurnError(error.code, sound(str(error)[:1000]))
    # The message of an error that is not ours may hold anything; its type is enough for the log.
    return TurnError(type(error).__name__, "An error outside holdfast; see the caller's own log.")


def timed_out(turn_id: str | None, thread_id: str, timeout: float | None) -> RunTimeoutError:
    """The run's own time is over; `turn_id` is None if it had not opened yet."""
    where = f"on thread {thread_id!r}"
    if turn_id is None:
        return RunTimeoutError(
            f"Another run {where} did not end within this run's timeout of {timeout:g} s. Nothing was sent or "
            "recorded; run again, or with a longer timeout."
        )
    return RunTimeoutError(
        f"Turn {turn_id} {where} took longer than its timeout of {timeout:g} s. What had arrived is kept in the log; "
        "run again with a longer timeout."
    )


def bad_form(turn_id: str, thread_id: str, why: str, service: str) -> AnswerFormatError:
    error = AnswerFormatError(
        f"The answer of turn {turn_id} on thread {thread_id!r} is not of the form that was asked for: {why} What was "
        "answered is in .response and in the log; run again, or ask for a simpler form.",
        service=service,
    )
    error.thread_id, error.turn_id = thread_id, turn_id
    return error


def gave_way(turn_id: str, thread_id: str, seconds: float) -> StaleRunError:
    return StaleRunError(
        f"Turn {turn_id} was closed as cancelled: its stream had not been read for {seconds:.0f} s and another run "
        f"waited for thread {thread_id!r}. What had been read of it is in the log."
    )


def stopped(turn_id: str, thread_id: str, *, rollback: bool) -> RunCancelledError:
    if rollback:
        return RunCancelledError(
            f"Turn {turn_id} on thread {thread_id!r} was rolled back by another run (on_conflict='rollback'): the "
            "conversation goes on without it. What had been read is in .response."
        )
    return RunCancelledError(
        f"Turn {turn_id} on thread {thread_id!r} was cancelled, by thread.cancel() or by another run "
        "(on_conflict='interrupt'). What had been read is in .response and in the log."
    )
