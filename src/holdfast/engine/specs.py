"""Specs: all that a run is made from."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct

from holdfast.conversation.approvals import ApprovalAnswer
from holdfast.conversation.messages import ChatMessage
from holdfast.engine.handles import Handle
from holdfast.engine.leases import OnConflict
from holdfast.engine.limits import DEFAULT, Limits
from holdfast.engine.middleware import NOTHING_AROUND, Around
from holdfast.engine.providers import ContextProvider
from holdfast.engine.toolkits import NO_TOOLS, AnswerShape, Toolkit
from holdfast.engine.views import View
from holdfast.ports.clients import ChatClient, ChatOptions
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Point

# Who said what the run is to answer: its caller, the last turn (which is answered again), or the open run of a process
# that is gone, or that waits for somebody's word (which is gone on with).
InputFrom: TypeAlias = Literal["caller", "last turn", "open run"]


class RunSpec(Struct, frozen=True):
    """All that a run is made from; nothing else is known to the loop."""

    client: ChatClient
    thread: Handle
    input: tuple[ChatMessage, ...]
    instructions: str | None
    options: ChatOptions
    stream: bool
    runtime: Runtime
    timeout: float | None = None
    on_conflict: OnConflict = "enqueue"
    agent_name: str | None = None
    enqueue_timeout: float | None = None
    key: str | None = None
    point: Point | None = None
    limits: Limits = DEFAULT
    input_from: InputFrom = "caller"
    apart: bool = False  # it goes on when whoever asked for it goes away
    kit: Toolkit = NO_TOOLS
    deps: Any = None
    answers: tuple[ApprovalAnswer, ...] = ()
    shape: AnswerShape | None = None
    around: Around = NOTHING_AROUND
    providers: tuple[ContextProvider, ...] = ()
    agent_id: str = ""
    view: View | None = None
    is_one_off: bool = False  # without a thread that anybody could come back to
