"""Agent tools: an agent that another agent may call.

With conversation="new" each call is a conversation of its own, which is gone afterwards. With "lasting" the calls of
one thread are one conversation: the called agent remembers. It is kept on a thread of its own in the same store, and
where it stands is recorded beside each result in the log of the calling thread; so it is forked and rewound with it.

Rule of this file: a lasting conversation is never moved, only gone on with where it stands, or forked from where this
thread left it; so no other thread that shares its past is disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct, to_builtins
from msgspec.structs import replace

from holdfast.conversation.errors import (
    HoldfastError,
    InvalidInputError,
    ThreadDeletedError,
    ThreadExistsError,
    ThreadNotFoundError,
    TurnNotFoundError,
)
from holdfast.conversation.ids import checked_thread_id
from holdfast.conversation.messages import ChatMessage
from holdfast.engine.acting import AGENTS
from holdfast.engine.loop import fold
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun
from holdfast.engine.threads import AgentThread
from holdfast.ports.stores import Point
from holdfast.ports.tools import ToolAnswer, ToolContext, ToolError, ToolSpec

# What becomes of what was said to the called agent: nothing, or it is remembered in the next call.
Conversation: TypeAlias = Literal["new", "lasting"]

# So many agents deep may one call lead.
MAX_DEPTH = 5

_NOT_OF_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")
_arguments = msgspec.json.Decoder(dict[str, Any]).decode


class Asked(Protocol):
    """An agent, as far as its tool knows it."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str | None: ...

    @property
    def description(self) -> str | None: ...

    def _run(self, messages: str, thread: AgentThread | None, stream: bool, options: Any) -> TurnRun: ...


class _Place(Struct, frozen=True):
    """Where the conversation with a called agent stands: beside each of its results."""

    tool: str
    thread: str
    turn: str


class AgentTool:
    """An agent as a tool (`holdfast.ports.tools.Tool`); made by `agent.as_tool`."""

    in_thread = False
    approval_seconds: float | None = None

    def __init__(
        self,
        agent: Asked,
        *,
        name: str | None,
        description: str | None,
        arg_name: str,
        conversation: Conversation,
        timeout: float | None,
        approval: bool,
    ) -> None:
        made = name or _NOT_OF_NAMES.sub("_", agent.name or "").strip("_")
        if not made or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", made):
            raise InvalidInputError(
                f"{agent!r} needs a name to be a tool, of up to 64 letters, digits, '_' and '-': as_tool(name=...)."
            )
        if conversation not in ("new", "lasting"):
            raise InvalidInputError(f"conversation is 'new' or 'lasting'; got {conversation!r}.")
        told = {"type": "string", "description": "What it is to do or to answer, with all that it needs to know."}
        self.spec = ToolSpec(
            made,
            description or agent.description or f"Asks {made}.",
            {
                "type": "object",
                "properties": {arg_name: told},
                "required": [arg_name],
                "additionalProperties": False,
            },
        )
        self.timeout = timeout
        # What a lasting conversation has recorded under the call's key is not asked again.
        self.idempotent = conversation == "lasting"
        self._approval = approval
        self._agent = agent
        self._arg_name = arg_name
        self._conversation = conversation

    def __repr__(self) -> str:
        return f"<tool {self.spec.name}: {self._agent!r}>"

    def needs_approval(self, arguments: str) -> bool:
        return self._approval

    async def call(self, arguments: str, context: ToolContext[Any]) -> str | ToolAnswer:
        """Ask the agent; its answer. Raises ToolError if it cannot be asked, or fails."""
        task = self._task(arguments)
        chain = AGENTS.get()
        if self._agent.id in chain:
            raise ToolError(f"{self.spec.name} is at work already further up, and would wait for itself.")
        if len(chain) >= MAX_DEPTH:
            raise ToolError(f"Agents call each other {MAX_DEPTH} deep at most; {self.spec.name} was not asked.")
        try:
            if self._conversation == "new" or context.store is None:
                return self._text(await fold(self._agent._run(task, None, False, {"deps": context.deps})))
            # Calls of one answer are one conversation too: one after the other.
            async with context.shared.setdefault((AgentTool, self.spec.name), asyncio.Lock()):
                return await self._go_on(task, context)
        except HoldfastError as error:
            raise ToolError(f"{self.spec.name} has failed: {type(error).__name__}: {error}") from error

    def _task(self, arguments: str) -> str:
        task: Any = None
        with contextlib.suppress(msgspec.DecodeError):
            task = _arguments(arguments.encode()).get(self._arg_name)
        if not isinstance(task, str) or not task.strip():
            raise ToolError(f'{self.spec.name} was not asked. It takes {{"{self._arg_name}": "..."}}, a text.')
        return task

    def _text(self, response: AgentRunResponse) -> str:
        if response.status == "waiting":
            raise ToolError(
                f"{self.spec.name} wants to do something that must be allowed first, and was stopped there."
            )
        return response.text

    # --- a lasting conversation -----------------------------------------------------------------------------------

    async def _go_on(self, task: str, context: ToolContext[Any]) -> ToolAnswer:
        place: _Place | None = context.shared.get((_Place, self.spec.name))  # of the call before, in this answer
        if place is None:
            found = await context.look_back(lambda message: self._place_in(message) is not None)
            place = None if found is None else self._place_in(found)
        assert context.store is not None
        new_id = self._new_id(context)
        response = None
        if place is not None:
            old = AgentThread(context.store, place.thread, intent="existing")
            try:
                response = await self._ask(task, old, context, place.turn)
            except TurnNotFoundError:  # it has gone on without this thread, which was forked or rewound meanwhile
                with contextlib.suppress(ThreadExistsError):  # by this very call, before a crash
                    await old.fork(at=place.turn, thread_id=new_id)
            except (ThreadNotFoundError, ThreadDeletedError):
                pass  # somebody has deleted it: it begins anew
        if response is None:
            new = AgentThread(context.store, new_id, intent="either")
            response = await self._ask(task, new, context, None)
        place = _Place(self.spec.name, response.thread_id, response.turn_id)
        text = self._text(response)
        context.shared[_Place, self.spec.name] = place
        return ToolAnswer(text, {"agent": to_builtins(place)})

    async def _ask(
        self, task: str, thread: AgentThread, context: ToolContext[Any], after: str | None
    ) -> AgentRunResponse:
        options = {"idempotency_key": context.idempotency_key[-256:], "deps": context.deps}
        run = self._agent._run(task, thread, False, options)
        if after is not None:
            run.spec = replace(run.spec, point=Point(after, latest=True))
        try:
            return await fold(run)
        finally:
            if run.status == "waiting":  # nobody could answer it there; also if this call is cancelled right now
                await asyncio.shield(thread.cancel())

    def _place_in(self, message: ChatMessage) -> _Place | None:
        kept = (message.additional_properties or {}).get("agent")
        try:
            place = msgspec.convert(kept, _Place)
        except msgspec.ValidationError:
            return None
        return place if place.tool == self.spec.name else None

    def _new_id(self, context: ToolContext[Any]) -> str:
        """The id of the thread that begins with this call: the same if the call is made again after a crash."""
        mark = hashlib.blake2b(context.idempotency_key.encode(), digest_size=8).hexdigest()
        return checked_thread_id(f"{context.thread_id[:150]}~{self.spec.name}~{mark}")
