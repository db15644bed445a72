"""Agents: instructions and a chat client. Frozen: after any number of runs nothing in an agent has changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from holdfast.conversation.approvals import ApprovalAnswer, answers_in
from holdfast.conversation.errors import ConfigurationError, InvalidInputError
from holdfast.conversation.ids import checked_thread_id
from holdfast.conversation.messages import ChatMessage, checked_text, normalized_input
from holdfast.engine.agent_tools import AgentTool, Conversation
from holdfast.engine.detached import fold_apart
from holdfast.engine.limits import DEFAULT
from holdfast.engine.loop import fold
from holdfast.engine.middleware import NOTHING_AROUND
from holdfast.engine.options import OF_ONE_RUN, AgentOptions, ResumeOptions, RunOptions, checked_options, refuse
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun
from holdfast.engine.specs import InputFrom, RunSpec
from holdfast.engine.streams import AgentRunStream
from holdfast.engine.sync import run_sync
from holdfast.engine.telemetry import watched
from holdfast.engine.threads import AgentThread, thread_from_state
from holdfast.engine.toolkits import NO_TOOLS
from holdfast.ports.clients import ChatClient, ChatOptions
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import Point, ThreadStore
from holdfast.tools import mcp_extra

Input: TypeAlias = str | ChatMessage | Sequence[str | ChatMessage] | ApprovalAnswer | Sequence[ApprovalAnswer]


class ChatAgent:
    """A chat client with instructions. It holds no conversation: that is what threads are for.

        agent = ChatAgent(client, instructions="You are good at telling jokes.", name="Joker")
        thread = agent.get_new_thread()
        response = await agent.run("Tell me a joke about a pirate.", thread=thread)

    `thread_store` is where its threads are kept; without one they live in memory. Raises InvalidInputError for an
    option that does not exist or makes no sense, ConfigurationError for a store that is none.
    """

    __slots__ = (
        "_client",
        "_defaults",
        "_description",
        "_id",
        "_instructions",
        "_name",
        "_options",
        "_runtime",
        "_thread_store",
    )

    def __init__(
        self,
        client: ChatClient,
        instructions: str | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        id: str | None = None,
        thread_store: ThreadStore | None = None,
        runtime: Runtime = SYSTEM,
        **options: Unpack[AgentOptions],
    ) -> None:
        if thread_store is not None and not hasattr(thread_store, "open_run"):
            raise ConfigurationError(
                f"thread_store= takes a store; got {type(thread_store).__name__}. Pass SQLiteStore('chats.db'), or "
                "open_store(url) for an URL."
            )
        if name is not None:
            checked_text(name, "The agent's name")
        if instructions is not None:
            checked_text(instructions, "The agent's instructions")
        self._client = client
        self._name = name
        self._description = description
        self._id = id or runtime.new_id("agent")
        self._thread_store = thread_store
        self._runtime = runtime
        self._instructions = instructions
        refuse(options, OF_ONE_RUN, "an agent; pass it to a run")
        self._defaults, self._options = checked_options(dict(options), {}, ChatOptions())

    # --- what it is --------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def description(self) -> str | None:
        return self._description

    @property
    def display_name(self) -> str:
        """The name, or the id of an agent without one."""
        return self._name or self._id

    @property
    def instructions(self) -> str | None:
        return self._instructions

    @property
    def client(self) -> ChatClient:
        return self._client

    @property
    def thread_store(self) -> ThreadStore | None:
        return self._thread_store

    def __repr__(self) -> str:
        return f"ChatAgent({self.display_name!r} on {self._client.service})"

    # --- running -----------------------------------------------------------------------------------------------

    async def run(
        self, messages: Input, *, thread: AgentThread | None = None, **options: Unpack[RunOptions]
    ) -> AgentRunResponse:
        """One turn: say something, get the whole answer. With a thread the turn becomes part of its conversation.

        `messages` is a string, a ChatMessage or a list of them; or the answers to the requests of a response that waits
        (`response.approvals`): then that turn goes on, and a call that is allowed is made. Raises what is in
        `holdfast`'s errors; the error carries `.turn_id` and, in `.response`, what there was of the answer.
        """
        run = self._run(messages, thread, False, options)
        return await (fold_apart(run) if run.spec.apart else fold(run))

    def run_stream(
        self, messages: Input, *, thread: AgentThread | None = None, **options: Unpack[RunOptions]
    ) -> AgentRunStream:
        """The same turn, with the answer's updates as they come. Nothing is opened before the first is asked for.

        Bad input raises at once; everything else where the stream is read.
        """
        return AgentRunStream(self._run(messages, thread, True, options))

    def run_sync(
        self, messages: Input, *, thread: AgentThread | None = None, **options: Unpack[RunOptions]
    ) -> AgentRunResponse:
        """`run` for code that is not async: scripts, notebooks, also inside a running event loop."""
        return run_sync(self.run(messages, thread=thread, **options))

    async def resume(self, thread: AgentThread, **options: Unpack[ResumeOptions]) -> AgentRunResponse | None:
        """Go on with the turn that a dead process has left open on the thread: the same turn, under the same id.

        What it had written down is not asked or done again. None if nothing was left open (a run that is alive is
        left alone). A run that is started instead would close what was left as interrupted.
        """
        run = self._run((), thread, False, options, input_from="open run")
        response = await (fold_apart(run) if run.spec.apart else fold(run))
        return response if run.status is not None else None

    def resume_stream(self, thread: AgentThread, **options: Unpack[ResumeOptions]) -> AgentRunStream:
        """The same as a stream: first what had been said, then the rest. Empty if nothing was left open."""
        return AgentRunStream(self._run((), thread, True, options, input_from="open run"))

    async def regenerate(self, thread: AgentThread, **options: Unpack[ResumeOptions]) -> AgentRunResponse:
        """Answer the last input once more. The old turn stays on its branch (see `thread.branches`).

        If no new answer begins (the service fails, say), the thread stands at the old turn as before.
        Raises InvalidInputError if the thread has no turn, TurnNotFoundError if another run has gone on meanwhile.
        """
        run = self._run((), thread, False, options, input_from="last turn")
        return await (fold_apart(run) if run.spec.apart else fold(run))

    def regenerate_stream(self, thread: AgentThread, **options: Unpack[ResumeOptions]) -> AgentRunStream:
        """The same as a stream."""
        return AgentRunStream(self._run((), thread, True, options, input_from="last turn"))

    def _run(
        self,
        messages: Input,
        thread: AgentThread | None,
        stream: bool,
        options: Any,
        *,
        input_from: InputFrom = "caller",
    ) -> TurnRun:
        is_one_off = thread is None
        if thread is None:
            thread = AgentThread(runtime=self._runtime)  # a one-off: it is gone after the run
        elif not isinstance(thread, AgentThread):
            raise InvalidInputError(
                f"thread= takes a thread of holdfast (agent.get_new_thread()); got {type(thread).__name__}."
            )
        settings, chosen = self._defaults, self._options
        answers = () if isinstance(messages, str) else answers_in(messages)
        if answers:
            input_from = "open run"
        if input_from != "caller":
            refuse(options, ("idempotency_key", "after"), "a run whose input is there already")
        if options:
            settings, chosen = checked_options(options, settings, chosen)
        after = settings.get("after")
        within = settings.get("middleware", NOTHING_AROUND)
        if "opentelemetry.trace" in sys.modules:
            within = watched(within)
        spec = RunSpec(
            self._client,
            thread,
            normalized_input(messages) if input_from == "caller" else (),
            settings.get("instructions", self._instructions),
            chosen,
            stream,
            self._runtime,
            settings.get("timeout"),
            settings.get("on_conflict", "enqueue"),
            self._name,
            settings.get("enqueue_timeout"),
            settings.get("idempotency_key"),
            None if after is None else Point(after),
            settings.get("limits", DEFAULT),
            input_from,
            settings.get("on_disconnect") == "continue",
            settings.get("tools", NO_TOOLS),
            settings.get("deps"),
            answers,
            settings.get("response_format"),
            within,
            settings.get("context_providers", ()),
            self._id,
            settings.get("history"),
            is_one_off,
        )
        return TurnRun(spec)

    # --- for other agents, and other programs ------------------------------------------------------------------------

    def as_tool(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_name: str = "task",
        conversation: Conversation = "new",
        timeout: float | None = None,
        approval: bool = False,
    ) -> AgentTool:
        """This agent as a tool of another: `tools=[translator.as_tool()]`.

        With `conversation="new"` each call begins anew; with "lasting" the calls of one thread are one conversation,
        which is forked and rewound with that thread. Raises InvalidInputError if it has no name that services take.
        """
        return AgentTool(
            self,
            name=name,
            description=description,
            arg_name=arg_name,
            conversation=conversation,
            timeout=timeout,
            approval=approval,
        )

    def as_mcp_server(self, *, name: str | None = None) -> Any:
        """This agent as a server of the `mcp` package, with one tool that goes on with conversations.

        Raises ConfigurationError without that package: pip install 'holdfast[mcp]'.
        """
        return mcp_extra.serving().make_server(self, name=name)

    # --- threads -----------------------------------------------------------------------------------------------

    def get_new_thread(self, thread_id: str | None = None) -> AgentThread:
        """A new, empty conversation. Touches no disk: an id that is taken raises ThreadExistsError on first use.

        `thread_id` may be any printable string of up to 256 characters; without one it gets an id.
        """
        return AgentThread(self._thread_store, thread_id, intent="new", runtime=self._runtime)

    def get_thread(self, thread_id: str, *, create: bool = False) -> AgentThread:
        """A handle on a thread of this agent's store. Touches no disk.

        On first use ThreadNotFoundError is raised if there is none, unless `create`: then it is made (what a web
        handler wants, which knows only the id). Raises ConfigurationError if the agent has no store.
        """
        if self._thread_store is None:
            raise ConfigurationError(
                f"{self!r} keeps its threads in memory, where they cannot be found by id. "
                "Give it a thread_store, for example SQLiteStore('chats.db')."
            )
        checked_thread_id(thread_id)
        intent = "either" if create else "existing"
        return AgentThread(self._thread_store, thread_id, intent=intent, runtime=self._runtime)  # type: ignore[arg-type]

    async def deserialize_thread(self, state: Mapping[str, Any]) -> AgentThread:
        """The thread that `thread.serialize()` described, in this or another process.

        Raises InvalidInputError, SchemaVersionError, DamagedError.
        """
        return await thread_from_state(state, self._thread_store, self._runtime)
