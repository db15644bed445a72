"""A real engine, once for all tests: llama.cpp's server in a process of its own, on a free port of the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from engine_process import Engine, running_engine
from tiny_model import NAME

from holdfast import ChatAgent, OpenAIChatClient, SQLiteStore


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """It comes with the test dependencies, so there is no skipping: where it does not start, the tests fail."""
    with running_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[OpenAIChatClient]:
    async with OpenAIChatClient(NAME, base_url=engine.base_url) as made:
        yield made


@pytest.fixture
def agent(client: OpenAIChatClient, sqlite: SQLiteStore) -> ChatAgent:
    """Its answers are short, and as far as the engine keeps its word about seeds, the same each time."""
    return client.create_agent("You talk nonsense.", name="Parrot", thread_store=sqlite, max_tokens=40, seed=11)
