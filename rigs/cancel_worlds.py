"""The worlds in which situations are played: each kind of store, and clients that go through real HTTP.

    memory    threads in memory: hardly anything is waited for
    distant   the same, but every answer of the store takes its time: each await on the way is a place to be cancelled
    sqlite    a file; what an idle store commits on the caller's thread
    slow      a file on a slow disk: every write goes through the writer's thread
    private   threads that were given no store: each makes its own, a distant one
    http      threads in memory, the client over real sockets against the strict stand-in
    azure     the same in Azure's dialect, with a credential that has to be asked for tokens
    anthropic the same with Anthropic's Messages

Rule of this file: whatever is started here is closed here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from holdfast import (
    AnthropicChatClient,
    AzureOpenAIChatClient,
    ChatAgent,
    MemoryStore,
    OpenAIChatClient,
    SQLiteStore,
    ThreadStore,
)
from holdfast.stores import memory
from holdfast.testing.anthropic_messages import AnthropicStandIn
from holdfast.testing.azure_openai import AzureOpenAIStandIn
from holdfast.testing.openai_chat import ChatCompletionsStandIn, ParsedRequest
from holdfast.testing.standin_tapes import Answer
from rigs.cancel_model import MODEL, Model, over_http, plain
from rigs.cancel_stage import Distant, Hurried, World, until

KINDS = ("memory", "distant", "sqlite", "slow", "private", "http", "azure", "anthropic")
_NEVER_FAST = 1e9  # seconds that a commit is made to seem to take


@contextlib.asynccontextmanager
async def world_of(kind: str, folder: Path) -> AsyncIterator[World]:
    """One of the worlds."""
    async with contextlib.AsyncExitStack() as stack:
        model, runtime = Model(), Hurried()
        client: Any = model
        service: Any = None
        revoke: Callable[[], None] | None = None
        if kind == "http":
            service = ChatCompletionsStandIn(
                reply=_Noting(model), api_key="sk-rig", models=[MODEL], chunk_delay=0.0005, keep=64
            )
            stack.enter_context(service)  # in a thread of its own: its tasks are not this loop's
            client = OpenAIChatClient(MODEL, base_url=service.base_url, api_key="sk-rig", runtime=runtime)
        elif kind == "azure":
            service = AzureOpenAIStandIn(deployments=[MODEL], reply=_Noting(model), tokens=["none"], keep=64)
            stack.enter_context(service)
            credential = _Credential(service)
            client = AzureOpenAIChatClient(MODEL, endpoint=service.endpoint, credential=credential, runtime=runtime)
            revoke = credential.revoke
        elif kind == "anthropic":
            service = AnthropicStandIn(reply=_Noting(model), api_key="sk-rig", chunk_delay=0.0005, keep=64)
            stack.enter_context(service)
            client = AnthropicChatClient(MODEL, base_url=service.base_url, api_key="sk-rig", runtime=runtime)
        if service is not None:
            stack.push_async_callback(client.aclose)
        store = _store_of(kind, folder, runtime)
        if store is not None:
            stack.callback(store.close)
        if kind == "private":
            stack.enter_context(_made_by_threads(Distant))
        agent = client.create_agent(thread_store=store, runtime=runtime)
        await _warm(agent, store)
        yield World(kind, store, agent, model, runtime, service, revoke)


async def _warm(agent: ChatAgent, store: ThreadStore | None) -> None:
    """Have everything opened that is ever opened: SQLite keeps what other connections of the process still lock."""
    thread = agent.get_new_thread()
    await agent.run("warm", thread=thread)
    await thread.delete()
    if store is not None:
        await asyncio.gather(store.verify(), store.verify())


def _store_of(kind: str, folder: Path, runtime: Hurried) -> ThreadStore | None:
    if kind in ("sqlite", "slow"):
        store = SQLiteStore(folder / f"{kind}.db", runtime=runtime)
        if kind == "slow":
            store._shared.database._commit_seconds = _NEVER_FAST
        return store
    if kind == "private":
        return None
    return Distant(runtime=runtime) if kind == "distant" else MemoryStore(runtime=runtime)


@contextlib.contextmanager
def _made_by_threads(kind: type[MemoryStore]) -> Iterator[None]:
    """Threads that are given no store make one of this kind."""
    made, memory.MemoryStore = memory.MemoryStore, kind  # type: ignore[misc]
    try:
        yield
    finally:
        memory.MemoryStore = made  # type: ignore[misc]


class _Noting:
    """Answers as the model does, and writes down for it what was asked."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, request: ParsedRequest) -> Answer:
        self._model.asked.append(plain(request.messages))
        return over_http(request)


class _Credential:
    """Gives a new token each time that it is asked, after a moment; the service takes the last one only."""

    def __init__(self, service: AzureOpenAIStandIn) -> None:
        self._service = service
        self._given = 0

    async def get_token_info(self, *_: Any, **__: Any) -> _Token:
        await asyncio.sleep(0)
        self._given += 1
        token = f"token-{self._given}"
        self._service.tokens = {token}
        return _Token(token)

    def revoke(self) -> None:
        """What was given is not taken any more."""
        self._service.tokens = {"none"}


class _Token(Struct):
    """A token that is good for longer than any campaign."""

    token: str
    expires_on: float = 4e9


async def close_connections(world: World) -> list[str]:
    """After a stage over HTTP: close what the client keeps for the next time; what is wrong with the rest."""
    if world.service is None:
        return []
    client: Any = world.agent.client
    wrong = [record.summary() for record in world.service.refused if record.status != 401]
    world.service._journal.records.clear()
    if client._transport is not None:
        lines = client._transport._lines.values()
        wrong += [f"{len(line.replies)} replies are not closed" for line in lines if line.replies]
    await client.aclose()
    try:
        await until(lambda: world.service._journal.idle, "the service is idle", 3.0)
    except AssertionError as error:
        wrong.append(str(error))
    return wrong
