"""Session: one conversation at a prompt. Say something, see the answer as it comes, learn how it ended.

Rule of this file: the event loop runs while something is asked and stands still in between, so connections stay
warm and the prompt has the main thread. Whatever goes wrong with a turn is told, and the conversation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Coroutine
from typing import Any, TypeVar

from holdfast.cli.interrupts import Interrupts
from holdfast.cli.screen import Screen
from holdfast.cli.terminal import one_line, safe
from holdfast.cli.transcript import cut_short, how_it_ended, message_text, open_turn_told
from holdfast.cli.trouble import told
from holdfast.conversation.errors import HoldfastError, StoreError
from holdfast.conversation.turns import Turn
from holdfast.conversation.updates import AgentRunResponseUpdate, RefusalUpdate
from holdfast.engine.agents import ChatAgent
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.streams import AgentRunStream
from holdfast.engine.threads import AgentThread
from holdfast.ports.stores import ThreadStore

T = TypeVar("T")

# Seconds of silence after which a person wants to know why.
_SILENCE = 1.0
# Of earlier answers so much is shown: enough to know where one was.
_RECAP_LINES, _RECAP_CHARACTERS = 8, 700


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
        debug: bool = False,
    ) -> None:
        self.agent = agent
        self.store = store
        self.thread = thread
        self.screen = screen
        self.listed: list[str] = []  # the ids that /threads showed last, for /switch
        self.interrupts = interrupts
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
        turn_id = ""
        try:
            stream = self.agent.run_stream(text, thread=self.thread)
            turn_id = stream.turn_id
            response = self.run(self._show(stream))
        except KeyboardInterrupt:
            if not self.screen.is_person:
                raise
            self._tell_stopped(turn_id)
        except HoldfastError as error:
            self.tell_failed(error)
            return False
        except OSError:
            raise  # the terminal or the pipe went away: there is nobody to talk with
        except Exception as error:
            self.tell_failed(error)
            return False
        else:
            self._tell_ended(response)
        return True

    async def _show(self, stream: AgentRunStream) -> AgentRunResponse:
        """Print the answer as it comes. Leaving in whichever way seals the turn."""
        silence = asyncio.create_task(self._explain_silence(stream.turn_id))
        try:
            async with stream:
                async for update in stream:
                    words = _words_of(update)
                    if words:
                        silence.cancel()
                        self.screen.piece(words)
                return await stream.response()
        except asyncio.CancelledError:
            self.screen.end_stopped()
            raise
        finally:
            silence.cancel()
            self.screen.end_line()

    async def _explain_silence(self, turn_id: str) -> None:
        """After a while without a word: is it the service that thinks, or is the thread in other hands?"""
        await asyncio.sleep(_SILENCE)
        with contextlib.suppress(HoldfastError):
            info = await self.store.get(self.thread.id)
            if info is not None and info.busy not in (None, turn_id):
                self.screen.note("Waiting for another process that is using this thread …")
                return
        self.screen.hint("…")

    # --- how it ended ------------------------------------------------------------------------------------------

    def _tell_ended(self, response: AgentRunResponse) -> None:
        if not response.messages:
            self.screen.note("(The answer was empty.)")
        elif why := cut_short(response.finish_reason):
            self.screen.note(f"({why})")

    def _tell_stopped(self, turn_id: str) -> None:
        turn: Turn | None = None
        with contextlib.suppress(HoldfastError):
            turns = self.run(self.thread.turns(last=1))
            turn = turns[0] if turns and turns[0].id == turn_id else None
        if turn is None:
            self.screen.note("Stopped. Nothing was sent.")
        elif not turn.output:
            self.screen.note("Stopped before an answer came. Your message is kept.")
        elif turn.status != "completed":
            self.screen.note("Stopped. What you saw is kept.")

    def tell_failed(self, error: Exception) -> None:
        """What went wrong, and what it means for the conversation."""
        if self._debug:
            self.screen.trouble("".join(traceback.format_exception(error)))
        self.screen.trouble(told(error))
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
            self.screen.line()
            for text in _recap_of(turn):
                self.screen.line(self.screen.paint.dim(text))
        ending = how_it_ended(turns[-1]) if turns else ""
        if ending:
            self.screen.warn(f"({ending})")
        info = await self.store.get(self.thread.id)
        if info is not None and info.busy:
            self.screen.warn(open_turn_told(info.busy))
            self.screen.note("Your next message waits for the one, and closes the other as interrupted.")
        return turns


def _words_of(update: AgentRunResponseUpdate) -> str:
    """What a person should see of an update: a refusal is an answer too."""
    return update.refusal if isinstance(update, RefusalUpdate) else update.text


def _recap_of(turn: Turn) -> list[str]:
    """Who said what, shortened."""
    asked = [one_line(" ".join(map(message_text, turn.input)))]
    answered = "\n".join(text for text in map(message_text, turn.output) if text).splitlines()
    kept = answered[:_RECAP_LINES]
    text = "\n".join(kept)[:_RECAP_CHARACTERS]
    if len(kept) < len(answered) or len(text) < len("\n".join(kept)):
        text = text.rstrip() + " …"
    return [f"› {said}" for said in asked] + [safe(text)] * bool(text)
