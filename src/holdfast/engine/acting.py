"""Acting: the tool calls of one answer are made.

Rules of this file: that a call is begun is on disk before the function is entered, its result right after. Calls run
at once, so many at a time; results are handed on in the order of the calls. Whatever a tool does, the outcome is a
result that the model is told; only what ends the run itself (its time, a cancellation, a store that fails) goes up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.journal import Decision
from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.records import encode_messages
from holdfast.conversation.updates import sound
from holdfast.engine.effects import UNKNOWN, Effects, no_such_tool, result_message
from holdfast.engine.leases import INSIDE
from holdfast.engine.middleware import RunContext, ToolCallContext, chained
from holdfast.engine.specs import RunSpec
from holdfast.ports.tools import LookBack, Tool, ToolAnswer, ToolContext, ToolError

# The ids of the agents within whose tools this task runs.
AGENTS: ContextVar[tuple[str, ...]] = ContextVar("holdfast_agents", default=())
# Seconds for which a run that ends waits for functions that cannot be cancelled.
GRACE_SECONDS = 5.0
_HAS_RUN = "The tool has run, but its result"
# The longest message of an error that is told to a model.
_LONGEST_ERROR = 1000

# Writes down that calls are begun, and what was decided; returns when that is on disk.
Begin = Callable[[Sequence[str], Mapping[str, Decision]], Awaitable[None]]


class Acting:
    """The open calls of one answer, on the way to their results."""

    def __init__(
        self,
        spec: RunSpec,
        turn_id: str,
        effects: Effects,
        calls: Sequence[ToolCallContent],
        *,
        tools: Mapping[str, Tool],
        begin: Begin,
        apart: Callable[[ChatMessage], None],
        allowed: int,
        seconds: float | None,
        run: RunContext | None,
        look_back: LookBack,
    ) -> None:
        self._spec = spec
        self._turn_id = turn_id
        self._effects = effects
        self._tools = tools
        self._begin = begin
        self._look_back = look_back
        self._run = run  # as middleware sees it, if there is any
        self._apart = apart  # writes down a result that comes before its turn
        self._told: deque[ToolCallContent] = deque(calls)
        self._ready: deque[ToolCallContent] = deque()  # to be begun
        self._tasks: dict[asyncio.Task[ChatMessage], ToolCallContent] = {}
        self._contexts: dict[str, ToolContext[Any]] = {}
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.requests: list[ApprovalRequest] = []
        # How many calls were begun.
        self.begun = 0
        self._shared: dict[object, Any] = {}  # what tools of one kind share among the calls of this answer
        for call in calls:
            is_fresh = call.call_id not in effects.started and call.call_id not in effects.results
            self._place(call, is_allowed=not is_fresh or allowed > 0)
            allowed -= is_fresh

    # --- what becomes of each -----------------------------------------------------------------------------------

    def _place(self, call: ToolCallContent, *, is_allowed: bool) -> None:
        """See whether a call is to be made, waits for somebody's word, or has a result already."""
        effects, call_id = self._effects, call.call_id
        if call_id in effects.results:
            return
        tool = self._tools.get(call.name)
        was_begun = call_id in effects.started
        if was_begun and not (tool is not None and tool.idempotent):
            self._settle(call, UNKNOWN, effects.decided.get(call_id))
        elif not is_allowed and not was_begun:
            self._settle(call, "The limit of tool calls in one turn was reached; this call was not made.")
        elif tool is None and call_id not in effects.waits:
            self._settle(call, no_such_tool(call, list(self._tools)))
        elif was_begun or self._is_allowed(call, tool):
            self._ready.append(call)

    def _is_allowed(self, call: ToolCallContent, tool: Tool | None) -> bool:
        decision, asked = self._effects.decided.get(call.call_id), self._effects.waits.get(call.call_id)
        if decision is not None and not decision.approved:
            why = f" {decision.why}" if decision.why else ""
            self._settle(call, f"This call was not allowed, and not made.{why}", decision)
            return False
        if decision is not None and tool is not None:
            return True
        if asked is None:
            if tool is None or not tool.needs_approval(call.arguments):
                return tool is not None
            if self._spec.is_one_off:
                self._settle(
                    call, "This call needs somebody's approval, and here nobody can be asked; it was not made."
                )
                return False
            asked = self._request(call, tool)
        # What somebody was asked is not done without an answer, whatever a rule would say by now.
        if asked.expires_us is not None and self._spec.runtime.now_us() >= asked.expires_us:
            self._settle(call, "Nobody allowed this call in time; it was not made.")
            return False
        self.requests.append(asked)
        return False

    def _request(self, call: ToolCallContent, tool: Tool) -> ApprovalRequest:
        now = self._spec.runtime.now_us()
        seconds = tool.approval_seconds
        return ApprovalRequest(
            self._spec.thread.id,
            self._turn_id,
            call.call_id,
            call.name,
            call.arguments,
            self._spec.agent_name,
            now,
            None if seconds is None else now + int(seconds * 1e6),
        )

    def _settle(self, call: ToolCallContent, text: str, decision: Decision | None = None) -> None:
        self._effects.results[call.call_id] = result_message(call, text, is_error=True, decision=decision)

    # --- the way to the results -----------------------------------------------------------------------------------

    async def next(self) -> list[ChatMessage]:
        """The next results in the order of the calls.

        Empty when there is no more: every call has its result, or the rest waits for somebody's word.
        """
        found: list[ChatMessage] = []
        while not found:
            await self._begin_some()
            while self._told and self._told[0].call_id in self._effects.results:
                found.append(self._effects.results.pop(self._told.popleft().call_id))
            if found or not self._tasks:
                break
            await self._some_result()
        return found

    async def _begin_some(self) -> None:
        """Begin as many calls as may run at once; what was decided about them goes in the same commit."""
        free = self._spec.limits.parallel_calls - len(self._tasks)
        calls = [self._ready.popleft() for _ in range(min(free, len(self._ready)))]
        if not calls:
            return
        ids = [call.call_id for call in calls]
        decided = self._effects.decided
        await self._begin(ids, {name: decided[name] for name in ids if name in decided})
        self.begun += len(set(ids) - self._effects.started)
        self._effects.started.update(ids)
        for call in calls:
            context = ToolContext(
                call.name,
                call.call_id,
                self._turn_id,
                self._spec.thread.id,
                self._spec.deps,
                store=self._spec.thread.store,
                look_back=self._look_back,
                shared=self._shared,
            )
            self._contexts[call.call_id] = context
            task = asyncio.create_task(self._made(call, context), name=f"holdfast {call.name} {call.call_id}")
            self._tasks[task] = call

    async def _some_result(self) -> None:
        """Wait until some call has ended, or the time for tools is over."""
        left = None if self._until is None else max(0.0, self._until - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if done:
            self._take(done)
        else:
            await self._out_of_time()

    def _take(self, done: set[asyncio.Task[ChatMessage]]) -> None:
        for task in [task for task in self._tasks if task in done]:
            call = self._tasks.pop(task)
            if task.cancelled():
                continue  # its outcome is unknown
            message = self._effects.results[call.call_id] = task.result()
            # Also one that is the next, if others are to be begun (which takes its time) before it is handed on.
            if self._ready or not self._told or self._told[0].call_id != call.call_id:
                self._apart(message)

    async def _out_of_time(self) -> None:
        """The time for tools is over: what runs is stopped, what has not begun is not made."""
        await self.end()
        for call in [*self._told]:
            if call.call_id in self._effects.results:
                continue
            begun = call.call_id in self._effects.started
            self._settle(
                call,
                "The time for tools in this turn was over. " + (UNKNOWN if begun else "This call was not made."),
            )
        self._ready.clear()
        self.requests.clear()

    async def _made(self, call: ToolCallContent, context: ToolContext[Any]) -> ChatMessage:
        """Make one call; its result, whatever happened."""
        INSIDE.set((*INSIDE.get(), self._turn_id))
        AGENTS.set((*AGENTS.get(), self._spec.agent_id))
        tool = self._tools[call.name]
        decision = self._effects.decided.get(call.call_id)
        try:
            async with asyncio.timeout(tool.timeout) as limit:
                answer = await self._called(tool, call, context)
            return self._result(call, answer, decision)
        except (KeyboardInterrupt, SystemExit):
            raise
        except ToolError as error:
            return self._failed(call, str(error), decision)
        except asyncio.CancelledError:
            if context.cancelled:
                raise
            # Somebody has cancelled all tasks there are, or it has cancelled itself.
            told = UNKNOWN if tool.in_thread else "The tool gave up: it was cancelled from within."
            return self._failed(call, told, decision)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                context.cancel()
                return self._failed(call, _timed_out(tool), decision)
            return self._failed(call, f"{type(error).__name__}: {error}", decision)

    def _result(self, call: ToolCallContent, answer: object, decision: Decision | None) -> ChatMessage:
        """The message of what a tool gave; of an error, if that cannot be told."""
        text, beside = (answer.text, answer.properties) if isinstance(answer, ToolAnswer) else (answer, None)
        most = self._spec.limits.result_chars
        if not isinstance(text, str):
            return self._failed(call, f"{_HAS_RUN} is no text but a {type(text).__name__}.", decision)
        if len(text) > most:
            what = f"{_HAS_RUN} has {len(text):,} characters, and at most {most:,} can be read. Ask for less of it."
            return self._failed(call, what, decision)
        message = result_message(call, sound(text), decision=decision, beside=beside)
        try:
            encode_messages([message])
        except InvalidInputError:
            return self._failed(call, f"{_HAS_RUN} holds something that cannot be written down.", decision)
        return message

    async def _called(self, tool: Tool, call: ToolCallContent, context: ToolContext[Any]) -> str | ToolAnswer:
        """The call, within what is put around it."""
        if not self._spec.around.tool:
            return await tool.call(call.arguments, context)

        has_ended = has_failed = False

        async def innermost(around: ToolCallContext) -> str | ToolAnswer:
            nonlocal has_ended, has_failed
            if around.arguments != call.arguments and call.call_id in self._effects.decided:
                raise ToolError("Its arguments were changed after it had been allowed; it was not made.")
            if has_ended or (has_failed and not tool.idempotent):
                raise RuntimeError("call_next was called twice around a tool call: it is made once.")
            has_failed = True
            answer = await tool.call(around.arguments, context)
            has_ended = True
            return answer

        around = ToolCallContext(self._run, call.name, call.arguments, context)
        answer: str | ToolAnswer = await chained(self._spec.around.tool, innermost)(around)
        return answer

    @staticmethod
    def _failed(call: ToolCallContent, why: str, decision: Decision | None) -> ChatMessage:
        text = sound(why[:_LONGEST_ERROR]) or "The tool failed."
        return result_message(call, text, is_error=True, decision=decision)

    async def end(self) -> None:
        """Nobody waits any more: cancel what can be cancelled, and wait for a while for what cannot."""
        for context in self._contexts.values():
            context.cancel()
        for task, call in self._tasks.items():
            if not self._tools[call.name].in_thread:
                task.cancel()
        if self._tasks:
            done, late = await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)
            for task in late:  # their outcome is unknown
                task.cancel()
                self._tasks.pop(task)
            with contextlib.suppress(asyncio.CancelledError):
                self._take(done)

    def give_up(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """The run was ended from outside: tell the tools, from whichever thread."""
        for context in self._contexts.values():
            context.cancel()
        for task, call in list(self._tasks.items()):
            if loop is not None and not self._tools[call.name].in_thread:
                with contextlib.suppress(RuntimeError):  # the loop was closed, and its tasks with it
                    loop.call_soon_threadsafe(task.cancel)


def _timed_out(tool: Tool) -> str:
    told = f"The call took longer than {tool.timeout:g} s and was given up."
    return f"{told} It may still have an effect: its outcome is unknown." if tool.in_thread else told
