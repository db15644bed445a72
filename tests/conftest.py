from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import MemoryStore, SQLiteStore, ThreadStore


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach a service, whatever the environment (or the `.env`) of the person who runs it holds."""
    monkeypatch.setattr("holdfast.clients.environment.FILE", os.devnull)
    for name in ("COLUMNS", "LINES"):  # a terminal is as wide as it is, whatever runs the tests in several processes
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_", "ANTHROPIC_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ThreadStore]:
    """Every store there is, one after the other."""
    made: ThreadStore = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "threads.db")
    yield made
    made.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLiteStore]:
    made = SQLiteStore(tmp_path / "threads.db")
    yield made
    made.close()
