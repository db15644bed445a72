"""Session: one conversation at a prompt. Say something, see the answer as it comes, learn how it ended.

Rule of this file: the event loop runs while something is asked and stands still in between, so connections stay
warm and the prompt has the main thread. Whatever goes wrong with a turn is told, and the conversation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import traceback
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from holdfast.cli.calls import CallLines
from holdfast.cli.interrupts import Interrupts
from holdfast.cli.screen import Screen
from holdfast.cli.transcript import cut_short, how_it_ended, recap_lines
from holdfast.cli.trouble import Trouble, told
from holdfast.cli.underway import OpenTurn, open_turn
from holdfast.conversation.approvals import ApprovalAnswer, ApprovalRequest
from holdfast.conversation.errors import (
    HoldfastError,
    RunCancelledError,
    StoreError,
    ThreadBusyError,
    ThreadDeletedError,
)
from holdfast.conversation.messages import ToolCallContent
from holdfast.conversation.turns import Turn, unanswered_calls
from holdfast.conversation.updates import AgentRunResponseUpdate, RefusalUpdate
from holdfast.engine.agents import ChatAgent
from holdfast.engine.history import decoded
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.streams import AgentRunStream
from holdfast.engine.threads import AgentThread
from holdfast.engine.toolkits import NO_TOOLS, Toolkit
from holdfast.ports.stores import Progress, ThreadStore

T = TypeVar("T")

# Seconds of silence after which a person wants to know why.
_SILENCE = 1.0
_NOT_SENT = (
    "This message was not sent: the thread waits for a call to be allowed, and a message would give the call up. "
    "holdfast chat --thread {0} asks at a terminal; holdfast threads stop {0} gives it up."
)


class Session:
    """An agent, a store, and the thread that is being talked on, which commands may change."""

    def __init__(
        self,
        agent: ChatAgent,
        store: ThreadStore,
        thread: AgentThread,
        screen: Screen,
        interrupts: Interrupts,
        loop: asyncio.AbstractEventLoop,
        *,
        tools: Toolkit = NO_TOOLS,
        debug: bool = False,
    ) -> None:
        self.agent = agent
        self.store = store
        self.thread = thread
        self.screen = screen
        self.listed: list[str] = []  # the ids that /threads showed last, for /switch
        self.interrupts = interrupts
        self.tools = tools
        self.to_ask = False  # somebody should be asked about calls that wait
        self._loop = loop
        self._debug = debug

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop; Ctrl-C cancels it, and is raised when it has ended."""
        task = self._loop.create_task(work)
        try:
            with self.interrupts.asking(self._loop, task.cancel):
                return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    # --- a turn ------------------------------------------------------------------------------------------------

    def say(self, text: str) -> bool:
        """One turn; False if it failed. Raises KeyboardInterrupt if it was stopped and nobody is there to go on."""
        if not self.screen.is_person and self.waiting():
            self.tell_failed(Trouble(_NOT_SENT.format(shlex.quote(self.thread.id))))
            return False
        try:
            stream = self.agent.run_stream(text, thread=self.thread)
        except HoldfastError as error:
            self.tell_failed(error)
            return False
        return self.show(stream)

    def answer(self, answer: ApprovalAnswer) -> bool:
        """Go on with a turn that waits. As `say`."""
        try:
            earlier = self.run(self._open_calls())
            stream = self.agent.run_stream([answer], thread=self.thread)
        except HoldfastError as error:
            self.tell_failed(error)
            return False
        return self.show(stream, earlier=earlier)

    def waiting(self) -> list[ApprovalRequest]:
        """The calls that wait to be allowed on the thread. None if that cannot be known: a turn will tell why."""
        with contextlib.suppress(HoldfastError):
            return self.run(self.thread.approvals())
        return []

    async def _open_calls(self) -> list[ToolCallContent]:
        info = await self.store.get(self.thread.id)
        left = await open_turn(self.store, info) if info is not None else None
        return unanswered_calls(left.turn.output) if left is not None else []

    def show(self, stream: AgentRunStream, *, again: bool = False, earlier: Iterable[ToolCallContent] = ()) -> bool:
        """An answer, as it comes, and how it ended; `again` if it takes the place of another. As `say`.

        `earlier` are calls of the same turn that were shown before.
        """
        fine = True
        try:
            response = self.run(self._read(stream, CallLines(self.screen, earlier)))
            self.to_ask = response.status == "waiting"
            self._tell_ended(response)
        except KeyboardInterrupt:
            if not self.screen.is_person:
                raise
            self._tell_stopped(stream.turn_id)
        except RunCancelledError:
            fine = False
            self._tell_stopped_elsewhere(stream.turn_id)
        except HoldfastError as error:
            fine = False
            self.tell_failed(error)
        except OSError:
            raise  # the terminal or the pipe went away: there is nobody to talk with
        except Exception as error:
            fine = False
            self.tell_failed(error)
        if again and not self.to_ask:
            self._tell_of_the_earlier_answer(stream.turn_id)
        return fine

    async def _read(self, stream: AgentRunStream, calls: CallLines) -> AgentRunResponse:
        """Print the answer as it comes. Leaving in whichever way seals the turn."""
        silence = asyncio.create_task(self._explain_silence(stream))
        try:
            async with stream:
                async for update in stream:
                    words = _words_of(update)
                    if calls.take(update) or words:
                        silence.cancel()
                    if words:
                        self.screen.piece(words)
                return await stream.response()
        except asyncio.CancelledError:
            self.screen.end_stopped()
            raise
        finally:
            silence.cancel()
            self.screen.end_line()

    async def _explain_silence(self, stream: AgentRunStream) -> None:
        """After a while without a word: is it the service that thinks, or is the thread in other hands?"""
        await asyncio.sleep(_SILENCE)
        with contextlib.suppress(HoldfastError):
            info = await self.store.get(self.thread.id)
            if info is not None and info.busy not in (None, stream.turn_id):
                self.screen.note("Waiting for another process that is using this thread …")
                if self.screen.is_person:
                    self.screen.note("Ctrl-C takes your message back; /stop then ends what is being made there.")
                return
        self.screen.hint("…")

    # --- how it ended ------------------------------------------------------------------------------------------

    def _tell_ended(self, response: AgentRunResponse) -> None:
        if not response.messages:
            self.screen.note("(The answer was empty.)")
        elif why := cut_short(response.finish_reason):
            self.screen.note(f"({why})")

    def _tell_stopped(self, turn_id: str) -> None:
        """Somebody at this keyboard did it."""
        turn, on_head = self._recorded(turn_id)
        if turn is None:
            self.screen.note("Stopped. Nothing was sent.")
        elif not turn.output:
            self.screen.note("Stopped before an answer came." + " Your message is kept." * on_head)
        elif turn.status != "completed":
            self.screen.note("Stopped. What you saw is kept.")

    def _tell_stopped_elsewhere(self, turn_id: str) -> None:
        """Somebody at another keyboard did it, or another program."""
        turn, on_head = self._recorded(turn_id)
        if turn is None:
            words = "This answer was stopped from elsewhere, and is not in the store any more."
        elif not turn.output:
            words = "This was stopped from elsewhere before an answer came." + " Your message is kept." * on_head
        elif on_head:
            words = "This answer was stopped from elsewhere. What you saw is kept."
        else:
            words = "This answer was taken back from elsewhere. What you saw is kept on a branch: /branches"
        tell = self.screen.note if self.screen.is_person else self.screen.trouble
        tell(words)

    def _tell_of_the_earlier_answer(self, turn_id: str) -> None:
        _, on_head = self._recorded(turn_id)
        if on_head:
            self.screen.note("The earlier answer stays on a branch of its own: /branches")
        else:
            self.screen.note("The earlier answer stands.")

    def _recorded(self, turn_id: str) -> tuple[Turn | None, bool]:
        """What has become of a turn, and whether the conversation goes on from it."""
        with contextlib.suppress(HoldfastError):
            found = self.run(self._progress(turn_id))
            if found is not None and found.turn is not None:
                return decoded(found.turn), found.on_head
        return None, False

    async def _progress(self, turn_id: str) -> Progress | None:
        return await self.store.progress(self.thread.id, turn_id)

    def tell_failed(self, error: Exception) -> None:
        """What went wrong, and what it means for the conversation."""
        if self._debug:
            self.screen.trouble("".join(traceback.format_exception(error)))
        self.screen.trouble(told(error))
        if self.screen.is_person and isinstance(error, ThreadBusyError):
            self.screen.note("/stop ends what is being made there.")
        if self.screen.is_person and isinstance(error, ThreadDeletedError):
            self.screen.note("/new begins another thread.")
        turn_id = getattr(error, "turn_id", None)
        response = getattr(error, "response", None)
        if response is None or turn_id is None:
            return
        if isinstance(error, StoreError):
            self.screen.note(f"Turn {turn_id} may not have been kept; /history shows what is.")
        elif response.messages:
            self.screen.note(f"Turn {turn_id}: what had come of the answer is kept.")
        else:
            self.screen.note(f"Turn {turn_id}: no answer, so it does not count. You can say it again.")

    # --- where one was -----------------------------------------------------------------------------------------

    async def recap(self, exchanges: int) -> list[Turn]:
        """Show the end of the conversation, dimmed, and how it ended if not well. Returns the turns that were shown."""
        turns = await self.thread.turns(last=exchanges)
        for turn in turns:
            self._show_again(turn)
        ending = how_it_ended(turns[-1]) if turns else ""
        if ending:
            self.screen.warn(f"({ending})")
        info = await self.store.get(self.thread.id)
        left = await open_turn(self.store, info) if info is not None else None
        if left is not None:
            self._tell_of_what_is_open(left)
        return turns

    def _show_again(self, turn: Turn) -> None:
        self.screen.line()
        for text in recap_lines(turn):
            self.screen.line(self.screen.paint.dim(text))

    def _tell_of_what_is_open(self, left: OpenTurn) -> None:
        """What there is of a turn that has not ended, and what can be done about it."""
        self._show_again(left.turn)
        self.screen.warn(left.told)
        if left.waiting:
            self.to_ask = True
        elif left.alive:
            self.screen.note("Your next message waits for it. /stop ends it.")
        else:
            self.screen.note("/resume goes on with it. Your next message closes it as interrupted.")


def _words_of(update: AgentRunResponseUpdate) -> str:
    """What a person should see of an update: a refusal is an answer too."""
    return update.refusal if isinstance(update, RefusalUpdate) else update.text
