"""What every client offers besides the port: to make an agent of itself. Only here do clients touch the engine."""

from __future__ import annotations

from typing import Unpack, cast

from holdfast.engine.agents import ChatAgent
from holdfast.engine.options import AgentOptions
from holdfast.ports.clients import ChatClient
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import ThreadStore


class AgentMaker:
    """Base of the clients: adds `create_agent`."""

    __slots__ = ()

    def create_agent(
        self,
        instructions: str | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        id: str | None = None,
        thread_store: ThreadStore | None = None,
        runtime: Runtime = SYSTEM,
        **options: Unpack[AgentOptions],
    ) -> ChatAgent:
        """An agent on this client; the same as `ChatAgent(client, ...)`."""
        return ChatAgent(
            cast(ChatClient, self),
            instructions,
            name=name,
            description=description,
            id=id,
            thread_store=thread_store,
            runtime=runtime,
            **options,
        )
