"""Situations: clients, cancelled: alone, and where a service hesitates, refuses, or is asked again.

Rule of this file: what a service is scripted to do and was not asked for is forgotten before the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from holdfast import AzureOpenAIChatClient, ChatMessage, OfflineChatClient, OpenAIChatClient
from holdfast.ports.clients import ChatOptions, ChatRequest
from holdfast.testing.openai_chat import Answer, Fail, Hang, Say
from rigs.cancel_model import BEFORE, DRIVEN, MODEL, moment
from rigs.cancel_stage import Stage, situation

_SLOW = 0.004  # seconds


def _scripted(stage: Stage, *answers: Answer) -> None:
    """What the service does next, in place of what the model would say."""
    service = stage.world.service
    service.script(*answers)

    async def forget() -> None:
        service._script.clear()

    stage.afterwards.append(forget)


def _said() -> Say:
    return Say(pieces=["one ", "two ", "three"])


@situation("ChatAgent.run", on=("http",))
async def a_run_that_is_sent_again(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    _scripted(stage, Fail(503, headers={"retry-after": "0.001"}), Fail(500), _said())
    return stage.run()


@situation("ChatAgent.run", on=("http",))
async def a_run_whose_answer_comes_in_two_halves(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    _scripted(stage, Hang(_SLOW, after=1, answer=_said()))
    return stage.run()


@situation("ChatAgent.run", on=("http",))
async def a_run_that_is_refused_slowly(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    _scripted(stage, Hang(_SLOW, after=1, answer=Fail(400)))
    return stage.run()


@situation("ChatAgent.run_stream", "AgentRunStream.__anext__", on=("http",))
async def a_stream_whose_end_comes_late(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    _scripted(stage, Hang(_SLOW, after=7, answer=_said()))
    return stage.read_all(stage.stream())


@situation("OpenAIChatClient.ask", on=("memory",))
async def asking_a_service_that_answers_before_it_has_read_all(stage: Stage) -> Awaitable[Any]:
    """Until all is sent, nothing of the answer is handed on."""
    stage.may_become(())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(_SLOW)
            await reader.readexactly(length)
            writer.write(b"{}")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 26)
    port = server.sockets[0].getsockname()[1]
    client = OpenAIChatClient(MODEL, base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-rig", max_retries=0)

    async def close() -> None:
        await client.aclose()
        server.close()
        await server.wait_closed()

    stage.afterwards.append(close)
    return _asked(client, text="x" * 8_000_000)


@situation("OfflineChatClient.ask", on=("memory",))
async def asking_the_offline_partner(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    client = OfflineChatClient(delay=0.001, runtime=stage.world.runtime)
    return _asked(client)


@situation("OpenAIChatClient.ask", on=("http",))
async def asking_a_client(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    return _asked(stage.agent.client, stream=True)


@situation("OpenAIChatClient.ask", on=("http",))
async def asking_a_client_for_an_answer_in_one_piece(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    return _asked(stage.agent.client, stream=False)


@situation("AzureOpenAIChatClient.ask", on=("azure",))
async def asking_a_client_that_needs_a_token(stage: Stage) -> Awaitable[Any]:
    stage.may_become(())
    client: Any = stage.agent.client
    client._tokens.current = None
    return _asked(client)


@situation("AzureOpenAIChatClient.ask", on=("azure",))
async def asking_a_client_whose_token_comes_from_a_thread(stage: Stage) -> Awaitable[Any]:
    return _asked(_with_provider(stage, lambda: "a-token"))


@situation("AzureOpenAIChatClient.ask", on=("azure",))
async def asking_a_client_whose_token_has_to_be_awaited(stage: Stage) -> Awaitable[Any]:
    class Promised:
        """A token that comes in a moment."""

        def __await__(self) -> Generator[Any, None, str]:
            yield from moment().__await__()
            return "a-token"

    return _asked(_with_provider(stage, Promised))


def _with_provider(stage: Stage, provider: Callable[[], Any]) -> AzureOpenAIChatClient:
    """A client of its own that asks this function for its tokens."""
    stage.may_become(())
    service = stage.world.service
    service.tokens = {"a-token"}
    client = AzureOpenAIChatClient(MODEL, endpoint=service.endpoint, ad_token_provider=provider)
    kept: Any = stage.agent.client
    kept._tokens.current = None  # the next run of the stage's own client asks for another
    stage.afterwards.append(client.aclose)
    return client


@situation("AzureOpenAIChatClient.ask", on=("azure",))
async def asking_a_client_whose_token_is_refused(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    assert stage.world.revoke is not None
    stage.world.revoke()
    return _asked(stage.agent.client)


@situation("OpenAIChatClient.aclose", on=("http",))
async def closing_a_client(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    client: Any = stage.agent.client
    return _closed(client)


async def _closed(client: Any) -> None:
    await client.aclose()


@situation("AzureOpenAIChatClient.aclose", on=("azure",))
async def closing_another_client(stage: Stage) -> Awaitable[Any]:
    return await closing_a_client(stage)


@situation("OpenAIChatClient.__aenter__", "OpenAIChatClient.__aexit__", on=("http",))
async def a_client_in_a_with_block(stage: Stage) -> Awaitable[Any]:
    client: Any = stage.agent.client

    async def use() -> None:
        async with client:
            await stage.run()

    return use()


@situation("AzureOpenAIChatClient.__aenter__", "AzureOpenAIChatClient.__aexit__", on=("azure",))
async def another_client_in_a_with_block(stage: Stage) -> Awaitable[Any]:
    return await a_client_in_a_with_block(stage)


# --- Anthropic's Messages ------------------------------------------------------------------------------------------


@situation("ChatAgent.run", on=("anthropic",))
async def a_run_with_another_service(stage: Stage) -> Awaitable[Any]:
    return await _after_a_turn(stage, stage.run())


@situation("ChatAgent.run_stream", "AgentRunStream.__anext__", on=("anthropic",))
async def a_stream_with_another_service(stage: Stage) -> Awaitable[Any]:
    return await _after_a_turn(stage, stage.read_all(stage.stream(), lazy=True))


async def _after_a_turn(stage: Stage, work: Awaitable[Any]) -> Awaitable[Any]:
    await stage.before()
    return work


@situation("AnthropicChatClient.ask", on=("anthropic",))
async def asking_another_service(stage: Stage) -> Awaitable[Any]:
    return await asking_a_client(stage)


@situation("AnthropicChatClient.ask", on=("anthropic",))
async def asking_another_service_for_an_answer_in_one_piece(stage: Stage) -> Awaitable[Any]:
    return await asking_a_client_for_an_answer_in_one_piece(stage)


@situation("AnthropicChatClient.aclose", on=("anthropic",))
async def closing_the_client_of_another_service(stage: Stage) -> Awaitable[Any]:
    return await closing_a_client(stage)


@situation("AnthropicChatClient.__aenter__", "AnthropicChatClient.__aexit__", on=("anthropic",))
async def the_client_of_another_service_in_a_with_block(stage: Stage) -> Awaitable[Any]:
    return await a_client_in_a_with_block(stage)


async def _asked(client: Any, *, stream: bool = True, text: str = DRIVEN) -> None:
    codec = client.codec
    body = codec.head(None) + codec.message(ChatMessage("user", text=text))
    request = ChatRequest(body[:-1] + codec.tail(ChatOptions(), stream=stream), ChatOptions(), stream)
    async for _ in client.ask(request):
        pass
