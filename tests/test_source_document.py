"""Two tutorials of the Agent Framework (September 2025), their Python lines as they stand on the pages.

"Create and run an agent" with nothing changed but the import of the client, over the environment that the page asks
for, azure-identity's own credential and a stub of the `az` program. "Multi-turn conversation" with nothing changed:
only what comes before its first line is ours, where `agent` comes from. Run against the strict stand-ins through real
sockets, and against the offline partner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_az import StubAz

from holdfast import AzureOpenAIChatClient, ChatAgent, OfflineChatClient, OpenAIChatClient, SQLiteStore
from holdfast.testing.azure_openai import AzureOpenAIStandIn
from holdfast.testing.openai_chat import ChatCompletionsStandIn

INSTRUCTIONS = "You are good at telling jokes."

CREATE = """
import asyncio
from holdfast import AzureOpenAIChatClient
from azure.identity import AzureCliCredential

agent = AzureOpenAIChatClient(credential=AzureCliCredential()).create_agent(instructions="You are good at telling jokes.", name="Joker")
"""

RUN = """
async def main():
    result = await agent.run("Tell me a joke about a pirate.")
    print(result.text)

asyncio.run(main())
"""

RUN_STREAMED = """
async def main():
    async for update in agent.run_stream("Tell me a joke about a pirate."):
        if update.text:
            print(update.text, end="", flush=True)
    print()  # New line after streaming is complete

asyncio.run(main())
"""

MULTI_TURN = """
thread = agent.get_new_thread()

async def main():
    result1 = await agent.run("Tell me a joke about a pirate.", thread=thread)
    print(result1.text)

    result2 = await agent.run("Now add some emojis to the joke and tell it in the voice of a pirate's parrot.", thread=thread)
    print(result2.text)

asyncio.run(main())
"""

MULTIPLE_CONVERSATIONS = """
async def main():
    thread1 = agent.get_new_thread()
    thread2 = agent.get_new_thread()

    result1 = await agent.run("Tell me a joke about a pirate.", thread=thread1)
    print(result1.text)

    result2 = await agent.run("Tell me a joke about a robot.", thread=thread2)
    print(result2.text)

    result3 = await agent.run("Now add some emojis to the joke and tell it in the voice of a pirate's parrot.", thread=thread1)
    print(result3.text)

    result4 = await agent.run("Now add some emojis to the joke and tell it in the voice of a robot.", thread=thread2)
    print(result4.text)

asyncio.run(main())
"""

STREAMED = """
thread = agent.get_new_thread()

async def main():
    async for update in agent.run_stream("Tell me a joke about a pirate.", thread=thread):
        print(update.text, end="")
    print()
    async for update in agent.run_stream("Now tell it as the pirate's parrot.", thread=thread):
        print(update.text, end="")
    print()

asyncio.run(main())
"""

PIRATE, ROBOT = "Tell me a joke about a pirate.", "Tell me a joke about a robot."
PARROT = "Now add some emojis to the joke and tell it in the voice of a pirate's parrot."
AS_ROBOT = "Now add some emojis to the joke and tell it in the voice of a robot."

Run = Callable[[str, ChatAgent], list[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_page(page: str, agent: ChatAgent) -> list[str]:
        exec(compile(page, "the source document", "exec"), {"asyncio": asyncio, "agent": agent, "__name__": "__main__"})
        return capsys.readouterr().out.strip().split("\n")

    return run_page


@pytest.fixture(params=["in memory", "in a file"])
def kept(request: pytest.FixtureRequest, sqlite: SQLiteStore) -> dict[str, Any]:
    return {} if request.param == "in memory" else {"thread_store": sqlite}


@pytest.fixture
def service() -> Iterator[ChatCompletionsStandIn]:
    with ChatCompletionsStandIn() as made:
        yield made
        assert made.refused == []


def said(service: ChatCompletionsStandIn, index: int) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in service.messages(index)]


def jokers(service: ChatCompletionsStandIn, kept: dict[str, Any]) -> ChatAgent:
    client = OpenAIChatClient("gpt-4o-mini", base_url=service.base_url)
    return client.create_agent(instructions=INSTRUCTIONS, name="Joker", **kept)


def test_two_turns_over_the_wire(run: Run, service: ChatCompletionsStandIn, kept: dict[str, Any]) -> None:
    service.script("A pirate walks into a bar.", "Squawk! A pirate!")
    assert run(MULTI_TURN, jokers(service, kept)) == ["A pirate walks into a bar.", "Squawk! A pirate!"]
    assert said(service, 0) == [("system", INSTRUCTIONS), ("user", PIRATE)]
    assert said(service, 1) == [
        ("system", INSTRUCTIONS),
        ("user", PIRATE),
        ("assistant", "A pirate walks into a bar."),
        ("user", PARROT),
    ]


def test_two_conversations_over_the_wire(run: Run, service: ChatCompletionsStandIn, kept: dict[str, Any]) -> None:
    service.script("pirate joke", "robot joke", "parrot voice", "robot voice")
    printed = run(MULTIPLE_CONVERSATIONS, jokers(service, kept))
    assert printed == ["pirate joke", "robot joke", "parrot voice", "robot voice"]
    first = [("system", INSTRUCTIONS), ("user", PIRATE), ("assistant", "pirate joke"), ("user", PARROT)]
    second = [("system", INSTRUCTIONS), ("user", ROBOT), ("assistant", "robot joke"), ("user", AS_ROBOT)]
    assert (said(service, 2), said(service, 3)) == (first, second)


def test_streamed_over_the_wire(run: Run, service: ChatCompletionsStandIn, kept: dict[str, Any]) -> None:
    service.script("A pirate walks into a bar.", "Squawk!")
    assert run(STREAMED, jokers(service, kept)) == ["A pirate walks into a bar.", "Squawk!"]
    assert said(service, 1)[1:3] == [("user", PIRATE), ("assistant", "A pirate walks into a bar.")]
    assert all(request.json["stream"] for request in service.requests)


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubAz:
    made = StubAz(tmp_path / "bin", monkeypatch)
    made.gives("a-token-of-the-cli")
    return made


@pytest.fixture
def azure(az: StubAz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureOpenAIStandIn]:
    """The service, named in the environment as the page has it."""
    monkeypatch.chdir(tmp_path)
    with AzureOpenAIStandIn(tokens=["a-token-of-the-cli"], deployments=["chat"]) as made:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", made.endpoint)
        monkeypatch.setenv("AZURE_OPENAI_CHAT_DEPLOYMENT_NAME", "chat")
        yield made
        assert made.refused == []
        assert len(az.calls) == 1


def made_by(page: str) -> ChatAgent:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(page, "the page before", "exec"), names)
    assert isinstance(names["agent"], ChatAgent)
    assert isinstance(names["agent"].client, AzureOpenAIChatClient)
    return names["agent"]


def test_create_and_run_an_agent(run: Run, azure: AzureOpenAIStandIn) -> None:
    azure.script("A pirate walks into a bar.", "A pirate walks out of a bar.")
    agent = made_by(CREATE)
    assert run(RUN, agent) == ["A pirate walks into a bar."]
    assert run(RUN_STREAMED, agent) == ["A pirate walks out of a bar."]
    assert said(azure, 0) == said(azure, 1) == [("system", INSTRUCTIONS), ("user", PIRATE)]
    assert [request.json.get("stream", False) for request in azure.requests] == [False, True]


def test_one_page_after_the_other(run: Run, azure: AzureOpenAIStandIn) -> None:
    azure.script("A pirate walks into a bar.", "Squawk!", "pirate joke", "robot joke", "parrot voice", "robot voice")
    agent = made_by(CREATE)
    assert run(MULTI_TURN, agent) == ["A pirate walks into a bar.", "Squawk!"]
    assert [text for _, text in said(azure, 1)] == [INSTRUCTIONS, PIRATE, "A pirate walks into a bar.", PARROT]
    assert run(MULTIPLE_CONVERSATIONS, agent) == ["pirate joke", "robot joke", "parrot voice", "robot voice"]
    assert [text for _, text in said(azure, 5)] == [INSTRUCTIONS, ROBOT, "robot joke", AS_ROBOT]


def test_without_any_service(run: Run, kept: dict[str, Any]) -> None:
    agent = OfflineChatClient().create_agent(instructions=INSTRUCTIONS, name="Joker", **kept)
    joke, *rest = run(MULTI_TURN, agent)
    assert "pirate" in joke.lower()
    assert any("Squawk" in line for line in rest)
    printed = "\n".join(run(MULTIPLE_CONVERSATIONS, agent))
    assert "not sent any earlier joke" not in printed
    assert "robot" in printed.lower()
    assert "Squawk" in printed
