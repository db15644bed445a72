"""Limits: how much one thread may be made to hold and to wait for. Each has a default that holds."""

from __future__ import annotations

from msgspec import Struct

from holdfast.conversation.errors import AnswerTooLargeError, InputTooLargeError, InvalidInputError

MIB = 1024 * 1024


class Limits(Struct, frozen=True, kw_only=True):
    """What an agent takes at most; set with `limits=` on the agent or a run.

    `input_bytes` is one run's input as it is stored (InputTooLargeError), `answer_chars` one answer of the model and
    `turn_chars` all answers of a turn, tool calls included (AnswerTooLargeError: what came until then is kept, as a
    failed turn), `waiting_runs` how many runs may stand in line before one thread (QueueFullError).

    For tools, in one turn: `rounds` is how often the model may answer with calls, `tool_calls` how many are made,
    `tool_seconds` how long they may take together (None: as long as it takes). At one of these the open calls get a
    result that says so, and the model is asked once more without tools. `parallel_calls` run at a time. A result of
    more than `result_chars` characters is not told; the model is told to ask for less.
    Raises InvalidInputError for what is no positive whole number.
    """

    input_bytes: int = 32 * MIB
    answer_chars: int = 16 * MIB
    turn_chars: int = 64 * MIB
    waiting_runs: int = 1000
    rounds: int = 25
    tool_calls: int = 250
    parallel_calls: int = 8
    result_chars: int = 200_000
    tool_seconds: float | None = None

    def __post_init__(self) -> None:
        seconds = self.tool_seconds
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0):
            raise InvalidInputError(f"The limit tool_seconds is a number of seconds above 0; got {seconds!r}.")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "tool_seconds":
                continue
            if type(value) is not int or value < 1:
                raise InvalidInputError(f"The limit {name} is a whole number of at least 1; got {value!r}.")


DEFAULT = Limits()


def too_large_an_input(size: int, limits: Limits, thread_id: str) -> InputTooLargeError:
    return InputTooLargeError(
        f"The input takes {size:,} bytes; this agent takes at most {limits.input_bytes:,} a run. Nothing was sent. "
        "Send less, give large files as URLs, or raise limits=Limits(input_bytes=...).",
        thread_id=thread_id,
    )


def check_length(answer: int, turn: int, limits: Limits, service: str) -> None:
    """Refuse to go on with an answer or a turn that has become too long. Raises AnswerTooLargeError."""
    for what, length, most, name in (
        ("answer", answer, limits.answer_chars, "answer_chars"),
        ("turn", turn, limits.turn_chars, "turn_chars"),
    ):
        if length > most:
            raise AnswerTooLargeError(
                f"The {what} has become longer than {most:,} characters, and was ended there. What came is in the log "
                f"and in .response. Ask for less (max_tokens), or raise limits=Limits({name}=...).",
                service=service,
            )
