"""Rounds: what a run does between an answer and the next question: it has calls made, and sees whether all is said.

Rule of this file: at a limit the model is told so and asked once more without tools; a turn ends well in every case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from holdfast.conversation.errors import AnswerFormatError
from holdfast.conversation.journal import Decision
from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.turns import output_told
from holdfast.conversation.updates import AgentRunResponseUpdate, sound
from holdfast.engine import endings, history
from holdfast.engine.acting import Acting
from holdfast.engine.middleware import RunContext
from holdfast.engine.telling import Told
from holdfast.engine.toolkits import Toolkit
from holdfast.ports.clients import ChatOptions

# How often a model is asked to mend an answer that is not of the form that was asked for.
REPAIRS = 1
# The choices of tools that force no call.
FREE = (None, "auto", "none")


class Rounds(Told):
    """A run between its answers."""

    __slots__ = (
        "_answers",
        "_asked_without_tools",
        "_is_last",
        "_made_calls",
        "_opening",
        "_repairs",
        "_surroundings",
        "_told",
        "_tool_seconds",
        "calls",
        "kit",
    )

    # What the service is told of the input, and of the whole turn so far.
    _opening: bytes
    _told: bytes
    # The open calls of the last answer.
    calls: list[ToolCallContent]
    kit: Toolkit
    # The run as middleware sees it, if there is any.
    _surroundings: RunContext | None
    _answers: int
    _repairs: int
    _made_calls: int
    _tool_seconds: float
    # Whether the model may make no more calls, and was told so.
    _is_last: bool
    _asked_without_tools: bool

    def _refuse_if_ended(self) -> None:
        """Raises what its caller is to know, if somebody else has ended the run meanwhile."""
        if self._status is not None or self._lost is not None or self._asked_to_stop is not None:
            raise self._ended_by_others()

    def refuse_if_stopped(self) -> None:
        """The same, where the run may also have come to wait for somebody's word."""
        if self._status != "waiting":
            self._refuse_if_ended()

    async def leaves_off(self) -> None:
        """Leave what is under way, for an answer that no model gives; others have their turn meanwhile."""
        acting, self._acting = self._acting, None
        if acting is not None:
            await acting.end()
        await self._end_exchange()
        async with asyncio.timeout_at(self._deadline) as self._waking:
            await asyncio.sleep(0)
        self._waking = None
        self._refuse_if_ended()

    async def next_results(self) -> list[ChatMessage]:
        """What came of the next calls, in their order, to be told one by one; [] when there is no more."""
        self._refuse_if_ended()
        if self._acting is None:
            self._acting = self._begin_acting()
        self._handed_at = None
        began = self.spec.runtime.monotonic()
        try:
            async with asyncio.timeout_at(self._deadline) as self._waking:
                messages = await self._acting.next()
        finally:
            self._waking = None
            self._tool_seconds += self.spec.runtime.monotonic() - began
        if messages:  # they count, also if the run was ended meanwhile
            self._untouched = False
            self._output.extend(messages)
            self._own_journal().results(messages)
            self._handed_at = self.spec.runtime.monotonic()
        self._refuse_if_ended()
        return messages

    def tell(self, message: ChatMessage) -> Iterator[AgentRunResponseUpdate]:
        """Hand a result on."""
        return iter(self._tell([message]))

    def _begin_acting(self) -> Acting:
        limits_, journal = self.spec.limits, self._own_journal()
        self._is_last = self._is_last or self._rounds >= limits_.rounds
        seconds = limits_.tool_seconds
        return Acting(
            self.spec,
            self.turn_id,
            self.effects,
            self.calls,
            tools=self.kit.by_name,
            begin=self._begins,
            apart=journal.result_apart,
            allowed=0 if self._is_last else max(0, limits_.tool_calls - self._made_calls),
            seconds=None if seconds is None else max(0.0, seconds - self._tool_seconds),
            run=self._surroundings,
            look_back=self._look_back,
        )

    async def _begins(self, calls: Sequence[str], decided: Mapping[str, Decision]) -> None:
        self._untouched = False  # from now on it may be on the disk that an answer was used
        await self._own_journal().begins(calls, decided)

    async def has_more(self) -> bool:
        """Whether the service is to be asked again. If not, the turn is whole, or waits for somebody's word."""
        acting, self._acting = self._acting, None
        if acting is None:
            return self._is_to_be_mended()
        self._made_calls += acting.begun
        if acting.requests:
            known = self.effects.results.values()
            await self._park(acting.requests, self._own_journal().waits(acting.requests, known))
            return False
        self.calls = []
        self._tell_so_far()
        if self._asked_without_tools:  # it was told so, and calls all the same
            if self.spec.shape is not None:
                raise self._bad_form("The model called tools, although it may call no more.")
            return False
        limits_ = self.spec.limits
        time_is_over = limits_.tool_seconds is not None and self._tool_seconds >= limits_.tool_seconds
        self._is_last = self._is_last or time_is_over or self._made_calls >= limits_.tool_calls
        self._asked_without_tools = self._is_last
        return True

    def _is_to_be_mended(self) -> bool:
        """Read the answer, if it is to have a form; True if the model is asked to mend it.

        Raises AnswerFormatError if it was asked already, or has not answered at all.
        """
        shape = self.spec.shape
        if shape is None:
            return False
        answer = self._output[-1] if self._output and self._output[-1].role == "assistant" else None
        try:
            self.value = shape.read(answer.text if answer is not None else "")
        except ValueError as error:
            if answer is None or not answer.text.strip() or self._repairs >= REPAIRS:
                raise self._bad_form(str(error)) from None
            self._repairs += 1
            mend = _asks_to_mend(str(error))
            self._output.append(mend)
            self._own_journal().answered(self._output[-2:], self._usage, self._rounds)
            self._tell_so_far()
            return True
        return False

    def reads_form(self) -> None:
        """Read an answer that no model gave, if it is to have a form. Raises AnswerFormatError."""
        self._repairs = REPAIRS
        self._is_to_be_mended()

    def _bad_form(self, why: str) -> AnswerFormatError:
        return endings.bad_form(self.turn_id, self.spec.thread.id, why, self.spec.client.service)

    def _tail_for(self, options: ChatOptions) -> bytes:
        """The tail of a question with these options.

        A call is forced in the first question of a run alone, or a model might call for ever. The last one is asked
        without tools, whatever the options say.
        """
        spec, codec = self.spec, self.spec.client.codec
        if self._is_last:
            options = replace(options, tool_choice="none")
        elif self._answers and options.tool_choice not in FREE:
            options = replace(options, tool_choice="auto")
        return codec.tail(options, stream=spec.stream, tools=self.kit.encoded(codec))

    async def _look_back(self, fits: Callable[[ChatMessage], bool]) -> ChatMessage | None:
        """The latest message of the conversation, this turn's included, that fits."""
        for message in reversed(self._output):
            if fits(message):
                return message
        assert self._opened is not None
        return await history.latest(self.spec.thread.store, self._opened.head, fits)

    def _tell_so_far(self) -> None:
        """The next question tells the service of all that is in the turn by now."""
        self._told = self._opening + history.encode(self.spec.client.codec, output_told(self._output))


def _asks_to_mend(why: str) -> ChatMessage:
    """What the model is told of an answer that is not of the form that was asked for; it is part of the turn."""
    return ChatMessage("user", text=sound(why), additional_properties={"holdfast": "repair"})
