"""The FastAPI example, under real uvicorn and over real sockets.

In a process of its own it is what users start, with the offline partner. In the test's own event loop it is the same
file with a scripted partner, which can be held in the middle of a word.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import uvicorn

from holdfast import (
    AgentThread,
    AuthenticationError,
    CallerError,
    ContextTooLongError,
    HoldfastError,
    RateLimitError,
    ServiceError,
    ServiceUnavailableError,
    SQLiteStore,
    StoreError,
)
from holdfast.testing.scripted import Script, ScriptedChatClient

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fastapi_app.py"
PAGE = ROOT / "docs" / "fastapi.md"


# --- servers -----------------------------------------------------------------------------------------------------


class Process:
    """The example as a user starts it."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / f"server-{os.urandom(4).hex()}.log"
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLE.parent), "fastapi_app:app", "--port", "0"]
        environ = {**os.environ, "CHAT_STORE": f"sqlite:///{folder}/chats.db", "PYTHONWARNINGS": "error"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)

    async def address(self) -> str:
        async with asyncio.timeout(30):
            while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", self.log)):
                assert self._process.poll() is None, self.log
                await asyncio.sleep(0.02)
        return found[1]

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
        if how == signal.SIGTERM:
            assert "Traceback" not in self.log, self.log


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    """Processes that are ended with the test."""
    made: list[Process] = []
    yield made
    for process in made:
        process.end()


@asynccontextmanager
async def started(processes: list[Process], folder: Path) -> AsyncIterator[tuple[Process, httpx2.AsyncClient]]:
    process = Process(folder)
    processes.append(process)
    async with visitor(await process.address()) as client:
        yield process, client


def visitor(url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, timeout=20, trust_env=False)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's module, made anew, with a store of its own."""
    monkeypatch.setenv("CHAT_STORE", f"sqlite:///{tmp_path}/chats.db")
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    monkeypatch.delitem(sys.modules, EXAMPLE.stem, raising=False)
    module = importlib.import_module(EXAMPLE.stem)
    yield module
    module.store.close()
    del sys.modules[EXAMPLE.stem]


@asynccontextmanager
async def serving(
    example: ModuleType, *answers: Script
) -> AsyncIterator[tuple[httpx2.AsyncClient, ScriptedChatClient]]:
    """The example in this event loop, with a scripted partner."""
    model = ScriptedChatClient(*answers)
    example.agent = model.create_agent(timeout=20)  # type: ignore[attr-defined]
    config = uvicorn.Config(example.app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
        assert not task.done()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        async with visitor(f"http://127.0.0.1:{port}") as client:
            yield client, model
    finally:
        server.should_exit = True
        await task


# --- what a user does --------------------------------------------------------------------------------------------


def as_user(user: str | bytes) -> Any:
    return {"X-User": user}


async def say(client: httpx2.AsyncClient, user: str | bytes, text: str, **more: str) -> str:
    """Say something; the whole answer."""
    response = await client.post("/chat", headers=as_user(user), json={"text": text, **more})
    assert response.status_code == 200, response.text
    return str(response.json()["answer"])


def streamed(client: httpx2.AsyncClient, user: str, text: str, **more: str) -> Any:
    return client.stream("POST", "/chat/stream", headers=as_user(user), json={"text": text, **more})


async def events_of(response: httpx2.Response) -> AsyncIterator[tuple[str, dict[str, str]]]:
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    kind = ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


async def history(client: httpx2.AsyncClient, user: str | bytes) -> list[dict[str, str]]:
    response = await client.get("/history", headers=as_user(user))
    assert response.status_code == 200, response.text
    return list(response.json())


async def statuses(client: httpx2.AsyncClient, user: str = "ada") -> list[tuple[str, str, str]]:
    return [(turn["status"], turn["said"], turn["answer"]) for turn in await history(client, user)]


class Gate:
    """A step of a script: whoever comes here waits until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


# --- conversations -----------------------------------------------------------------------------------------------


async def test_several_users_at_once(processes: list[Process], tmp_path: Path) -> None:
    names = ["Ada", "Bo", "Cleo", "Dora", "Eve", "Flo", "Gus", "Hal"]
    async with started(processes, tmp_path) as (_, client):

        async def visit(name: str) -> None:
            user = name.lower()
            await say(client, user, f"I am {name}.")
            assert (await say(client, user, "What is my name?")).startswith(f"Your name is {name}.")
            async with streamed(client, user, "Do you know a pirate joke?") as response:
                told = [event async for event in events_of(response)]
            assert {kind for kind, _ in told[:-1]} == {"text"}
            assert "".join(data["text"] for _, data in told[:-1]) == told[-1][1]["answer"]
            said = [turn["said"] for turn in await history(client, user)]
            assert said == [f"I am {name}.", "What is my name?", "Do you know a pirate joke?"]

        await asyncio.gather(*map(visit, names))
        assert await history(client, "nobody") == []


async def test_an_answer_comes_piece_by_piece(example: ModuleType) -> None:
    gates = [Gate(), Gate()]
    async with serving(example, ["One, ", gates[0], "two, ", gates[1], "three.\n\nDone."]) as (client, _):
        async with streamed(client, "ada", "Count.") as response:
            events = events_of(response)
            assert await anext(events) == ("text", {"text": "One, "})
            gates[0].opened.set()
            assert await anext(events) == ("text", {"text": "two, "})
            gates[1].opened.set()
            assert await anext(events) == ("text", {"text": "three.\n\nDone."})
            kind, data = await anext(events)
            assert (kind, data["answer"]) == ("end", "One, two, three.\n\nDone.")
            assert [event async for event in events] == []
        assert (await history(client, "ada"))[0]["turn"] == data["turn"]


async def test_a_reader_who_leaves_ends_the_turn(example: ModuleType) -> None:
    async with serving(example, ["One, ", "two, ", Gate(), "three."], "Still here.") as (client, model):
        async with streamed(client, "ada", "Count.") as response:
            events = events_of(response)
            assert [await anext(events), await anext(events)] == [
                ("text", {"text": "One, "}),
                ("text", {"text": "two, "}),
            ]
        # The gate is never opened: only that the reader left can have ended the turn.
        assert await say(client, "ada", "Are you there?") == "Still here."
        assert model.said() == [("user", "Count."), ("assistant", "One, two, "), ("user", "Are you there?")]
        assert model.open == 0
        assert await statuses(client) == [
            ("cancelled", "Count.", "One, two, "),
            ("completed", "Are you there?", "Still here."),
        ]


async def test_a_reader_who_does_not_keep_up(example: ModuleType) -> None:
    pieces = ["x" * 100_000] * 500
    async with serving(example, pieces, "Still here.") as (client, _):
        async with streamed(client, "ada", "Count.") as response:
            events = events_of(response)
            await anext(events)
            await asyncio.sleep(0.2)  # all that the sockets hold is on its way
            assert await statuses(client) == []
        assert await say(client, "ada", "Are you there?") == "Still here."
        (status, _, answer), _ = await statuses(client)
        assert status == "cancelled"
        assert 100_000 <= len(answer) < 40_000_000


async def test_a_reader_who_leaves_before_the_first_piece(example: ModuleType) -> None:
    gate = Gate()
    async with serving(example, [gate, "Too late."], "Still here.") as (client, model):
        with pytest.raises(httpx2.ReadTimeout):
            async with client.stream(
                "POST", "/chat/stream", headers=as_user("ada"), json={"text": "Hello?"}, timeout=0.2
            ):
                pytest.fail("The answer begins with its first piece.")
        assert gate.reached.is_set()
        assert await say(client, "ada", "Are you there?") == "Still here."
        assert model.open == 0
        assert await statuses(client) == [("cancelled", "Hello?", ""), ("completed", "Are you there?", "Still here.")]


async def test_a_reader_who_leaves_the_line(example: ModuleType) -> None:
    gate = Gate()
    async with serving(example, [gate, "First."], "Third.") as (client, model):
        first = asyncio.create_task(say(client, "ada", "One."))
        await gate.reached.wait()
        with pytest.raises(httpx2.ReadTimeout):
            async with client.stream(
                "POST", "/chat/stream", headers=as_user("ada"), json={"text": "Two."}, timeout=0.2
            ):
                pytest.fail("The first answer was not over.")
        await asyncio.sleep(0.1)  # some rounds of this event loop, in which the server hears of it
        third = asyncio.create_task(say(client, "ada", "Three."))
        gate.opened.set()
        assert (await first, await third) == ("First.", "Third.")
        assert [said for _, said, _ in await statuses(client)] == ["One.", "Three."]
        assert len(model.requests) == 2


async def test_who_leaves_a_whole_answer_finds_it_later(example: ModuleType) -> None:
    gate = Gate()
    async with serving(example, [gate, "Hello."], "Still here.") as (client, _):
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/chat", headers=as_user("ada"), json={"text": "Hello?"}, timeout=0.2)
        gate.opened.set()
        assert await say(client, "ada", "Are you there?") == "Still here."
        assert (await statuses(client))[0] == ("completed", "Hello?", "Hello.")


async def test_two_requests_at_once_are_answered_in_order(example: ModuleType) -> None:
    gate = Gate()
    async with serving(example, [gate, "Hello, Ada."], "You are Ada.") as (client, model):
        first = asyncio.create_task(say(client, "ada", "I am Ada."))
        await gate.reached.wait()
        second = asyncio.create_task(say(client, "ada", "Who am I?"))
        assert await statuses(client) == []  # a turn shows when it is whole
        assert await say(client, "bo", "And I?") == "You are Ada."  # somebody else does not wait
        gate.opened.set()
        await first
        await second
        assert model.said() == [("user", "I am Ada."), ("assistant", "Hello, Ada."), ("user", "Who am I?")]
        assert [said for _, said, _ in await statuses(client)] == ["I am Ada.", "Who am I?"]


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_request_that_will_not_wait(example: ModuleType, path: str) -> None:
    gate = Gate()
    async with serving(example, [gate, "First."]) as (client, model):
        first = asyncio.create_task(say(client, "ada", "One."))
        await gate.reached.wait()
        refused = await client.post(path, headers=as_user("ada"), json={"text": "Two.", "on_conflict": "reject"})
        assert (refused.status_code, refused.json()) == (409, {"error": "ThreadBusy"})
        gate.opened.set()
        await first
        assert len(model.requests) == 1
        assert [said for _, said, _ in await statuses(client)] == ["One."]
        again = await client.post(path, headers=as_user("ada"), json={"text": "Two.", "on_conflict": "reject"})
        assert again.status_code == 200


async def test_a_conversation_outlives_the_server(processes: list[Process], tmp_path: Path) -> None:
    async with started(processes, tmp_path) as (server, client):
        await say(client, "ada", "I am Ada.")
        server.end()
    async with started(processes, tmp_path) as (server, client):
        assert (await say(client, "ada", "What is my name?")).startswith("Your name is Ada.")
        async with streamed(client, "ada", "Do you know a pirate joke?") as response:
            events = events_of(response)
            await anext(events)
            server.end(signal.SIGKILL)
            with pytest.raises(httpx2.TransportError):
                assert [event async for event in events] == []
    async with started(processes, tmp_path) as (_, client):
        assert (await say(client, "ada", "What is my name?")).startswith("Your name is Ada.")
        found = [(status, said) for status, said, _ in await statuses(client)]
        assert found == [
            ("completed", "I am Ada."),
            ("completed", "What is my name?"),
            ("interrupted", "Do you know a pirate joke?"),
            ("completed", "What is my name?"),
        ]


async def test_a_server_that_is_stopped_lets_an_answer_end(processes: list[Process], tmp_path: Path) -> None:
    async with started(processes, tmp_path) as (server, client):
        async with streamed(client, "ada", "Do you know a pirate joke?") as response:
            events = events_of(response)
            await anext(events)
            ending = asyncio.get_running_loop().run_in_executor(None, server.end)
            assert [event async for event in events][-1][0] == "end"
        await ending


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_server_that_does_not_wait_any_longer(example: ModuleType, path: str) -> None:
    gate = Gate()
    async with visitor("") as reader:
        async with serving(example, ["One, ", gate, "two."]) as (client, _):
            url = client.base_url.join(path)
            asking = asyncio.create_task(reader.post(url, headers=as_user("ada"), json={"text": "Count."}))
            await gate.reached.wait()
        await asyncio.wait([asking])  # the reader is still there, and is told in whichever way
        assert asking.exception() is not None or asking.result().status_code == 500
    thread = AgentThread(example.store.for_tenant("ada"), "chat", intent="existing")
    await example.agent.run("Still there?", thread=thread)
    first, _ = await thread.turns()
    assert (first.status, [message.text for message in first.output]) == ("cancelled", ["One, "])


async def test_two_servers_on_one_store(processes: list[Process], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        here, there = [(await stack.enter_async_context(started(processes, tmp_path)))[1] for _ in range(2)]
        async with streamed(here, "ada", "I am Ada.") as response:
            events = events_of(response)
            await anext(events)
            answer = asyncio.create_task(say(there, "ada", "What is my name?"))
            assert [event async for event in events][-1][0] == "end"
        assert (await answer).startswith("Your name is Ada.")
        assert await history(here, "ada") == await history(there, "ada")


# --- users -------------------------------------------------------------------------------------------------------

HOSTILE: list[str | bytes] = [
    "ada",
    "Ada",
    "ada.",
    "chat",
    "*",
    "%",
    "_",
    "''",
    "null",
    "None",
    "' OR '1'='1",
    "'; DROP TABLE threads; --",
    "../../etc/passwd",
    "/etc/passwd",
    "sqlite:///other.db",
    "ada%00",
    "ada%20",
    "ada, bo",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "a" * 255,
    "a" * 256,
    b"\xe9lo\xefse",
    b"\xff\xfe",
]


async def test_no_user_reaches_the_thread_of_another(processes: list[Process], tmp_path: Path) -> None:
    async with started(processes, tmp_path) as (_, client):
        for number, user in enumerate(HOSTILE):
            assert await history(client, user) == []
            await say(client, user, f"Remember this: {number}.")
        for number, user in enumerate(HOSTILE):
            assert [turn["said"] for turn in await history(client, user)] == [f"Remember this: {number}."]
        for user in HOSTILE[1:]:
            assert (await client.delete("/history", headers=as_user(user))).status_code == 204
        assert len(await history(client, HOSTILE[0])) == 1
    beside = {path.name for path in tmp_path.iterdir() if not path.name.startswith("server-")}
    assert beside <= {"chats.db", "chats.db-wal", "chats.db-shm", "chats.db-owners"}


NO_USERS: list[tuple[str | bytes | None, int]] = [
    (None, 401),
    ("", 401),
    ("a" * 257, 422),
    (b"\xe6\x97\xa5", 422),  # UTF-8, which a header is not: read as Latin-1 it holds control characters
    (b"ada\x85", 422),
]


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/history"])
async def test_who_cannot_be_a_user(example: ModuleType, path: str) -> None:
    async with serving(example) as (client, model):
        for user, status in NO_USERS:
            method = "GET" if path == "/history" else "POST"
            headers = {} if user is None else as_user(user)
            refused = await client.request(method, path, headers=headers, json={"text": "Hello."})
            assert refused.status_code == status, user
            assert str(example.store.location) not in refused.text
        assert model.requests == []


async def test_nobody_has_the_threads_of_the_default_tenant(example: ModuleType, tmp_path: Path) -> None:
    async with serving(example, "Noted.") as (client, _):
        await say(client, "ada", "Hello.")
        assert (await example.store.list()).threads == ()
        assert [info.id for info in (await example.store.for_tenant("ada").list()).threads] == ["chat"]


# --- forgetting --------------------------------------------------------------------------------------------------


async def test_a_user_who_wants_to_be_forgotten(example: ModuleType, tmp_path: Path) -> None:
    async with serving(example, "A secret.", "Hello.") as (client, model):
        assert (await client.delete("/history", headers=as_user("ada"))).status_code == 204  # there is none yet
        await say(client, "ada", "My hidden treasure is in Zanzibar.")
        assert (await client.delete("/history", headers=as_user("ada"))).status_code == 204
        assert await history(client, "ada") == []
        assert await say(client, "ada", "Hello?") == "Hello."
        assert model.said() == [("user", "Hello?")]
        assert await statuses(client) == [("completed", "Hello?", "Hello.")]
    assert all(b"Zanzibar" not in path.read_bytes() for path in tmp_path.glob("chats.db*"))


async def test_a_history_that_is_deleted_in_the_middle_of_an_answer(example: ModuleType) -> None:
    gate = Gate()
    async with serving(example, ["One, ", gate, "two."], "Hello.") as (client, _):
        async with streamed(client, "ada", "Count.") as response:
            events = events_of(response)
            await anext(events)
            assert (await client.delete("/history", headers=as_user("ada"))).status_code == 204
            gate.opened.set()
            *_, (kind, data) = [event async for event in events]
            assert (kind, data["error"], data["answer"]) == ("error", "RunCancelled", "One, ")
        assert await history(client, "ada") == []
        assert await say(client, "ada", "Hello?") == "Hello."


# --- errors ------------------------------------------------------------------------------------------------------


def below(kind: type[HoldfastError]) -> list[type[HoldfastError]]:
    return [kind, *(found for each in kind.__subclasses__() for found in below(each))]


@pytest.mark.parametrize(
    ("branch", "statuses"),
    [(CallerError, {*range(400, 429), 500, 504}), (ServiceError, {413, 422, 429, 502, 503}), (StoreError, {409, 503})],
)
def test_each_error_has_a_status_of_its_branch(
    example: ModuleType, branch: type[HoldfastError], statuses: set[int]
) -> None:
    for kind in below(branch):
        assert example.status_of(kind("no")) in statuses, kind


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
@pytest.mark.parametrize(
    ("error", "status", "told", "wait"),
    [
        (AuthenticationError, 502, "Authentication", None),
        (RateLimitError, 429, "RateLimit", "2"),
        (ServiceUnavailableError, 503, "ServiceUnavailable", None),
        (ContextTooLongError, 413, "ContextTooLong", None),
    ],
)
async def test_a_service_that_fails(
    example: ModuleType, path: str, error: type[ServiceError], status: int, told: str, wait: str | None
) -> None:
    failure = error("Asked at 10.0.0.7.", retry_after=1.2 if wait else None)
    async with serving(example, [failure], "Hello.") as (client, model):
        refused = await client.post(path, headers=as_user("ada"), json={"text": "Hello?"})
        assert refused.status_code == status
        assert refused.headers.get("retry-after") == wait
        assert refused.json().keys() == {"error", "turn", "answer"}
        assert (refused.json()["error"], refused.json()["answer"]) == (told, "")
        assert await say(client, "ada", "Hello?") == "Hello."
        assert model.said() == [("user", "Hello?")]  # once


async def test_a_service_that_fails_in_the_middle(example: ModuleType) -> None:
    dead = [ServiceUnavailableError("The line to 10.0.0.7 is dead.") for _ in range(2)]
    async with serving(example, ["Once up", dead[0]], ["Once mo", dead[1]]) as (client, _):
        async with streamed(client, "ada", "A story!") as response:
            events = [event async for event in events_of(response)]
        turn = (await history(client, "ada"))[0]
        assert events == [
            ("text", {"text": "Once up"}),
            ("error", {"error": "ServiceUnavailable", "turn": turn["turn"], "answer": "Once up"}),
        ]
        assert (turn["status"], turn["answer"]) == ("failed", "Once up")
        refused = await client.post("/chat", headers=as_user("ada"), json={"text": "A story!"})
        assert (refused.status_code, refused.json()["answer"]) == (503, "Once mo")


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/history"])
async def test_a_store_that_fails(example: ModuleType, path: str, tmp_path: Path) -> None:
    example.store = SQLiteStore(tmp_path / "no such folder" / "chats.db")  # type: ignore[attr-defined]
    async with serving(example) as (client, model):
        method = "GET" if path == "/history" else "POST"
        refused = await client.request(method, path, headers=as_user("ada"), json={"text": "Hello?"})
        assert (refused.status_code, refused.json()) == (503, {"error": "StoreUnavailable"})
        assert model.requests == []


NO_BODIES = [
    b'{"text": " "}',
    b'{"text": "\\ud800"}',
    b'{"text": 7}',
    b"{}",
    b"[",
    b'{"text": "' + b"a" * 16_001 + b'"}',
    b'{"text": "Hello.", "on_conflict": "interrupt"}',
]


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_body_that_makes_no_sense(example: ModuleType, path: str) -> None:
    async with serving(example) as (client, model):
        headers = {**as_user("ada"), "Content-Type": "application/json"}
        for body in NO_BODIES:
            refused = await client.post(path, headers=headers, content=body)
            assert (refused.status_code, refused.json()["error"]) == (422, "InvalidInput"), body
            assert len(refused.content) < 500
        assert model.requests == []
        assert await history(client, "ada") == []


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_quotes_the_file() -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    quoted = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(quoted) >= 4
    for block in quoted:
        for part in block.split("\n...\n"):
            assert part.strip("\n") in source, part


def test_the_page_lists_the_statuses(example: ModuleType) -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: int(status) for status, names in rows for name in re.findall(r"`(\w+Error)`", names)}
    assert told == {kind.__name__: status for kind, status in example.STATUSES.items()}
