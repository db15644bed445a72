"""SQLiteStore keeps the contract of all stores."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings

from holdfast import SQLiteStore, ThreadStore
from holdfast.ports.stores import OpenRun
from holdfast.testing.contracts import PersistentStoreContract
from holdfast.testing.state_machine import store_machine


def behind_its_back(store: ThreadStore, sql: str, *values: object) -> None:
    """Change the file as a broken disk would. (One library, one set of locks: a second connection does no harm.)"""
    connection = apsw.Connection(store.location)
    connection.execute(sql, values)
    connection.close()


class TestSQLiteStore(PersistentStoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_store(self) -> ThreadStore:
        return SQLiteStore(self.folder / "threads.db")

    def reopen(self, store: ThreadStore) -> ThreadStore:
        store.close()
        return SQLiteStore(store.location)

    def abandon(self, store: ThreadStore, run: OpenRun) -> None:
        """What is left of a process that died: its number in the row, and no lock on its byte."""
        store._shared.die()  # type: ignore[attr-defined]

    def damage(self, store: ThreadStore, turn_id: str) -> None:
        behind_its_back(store, "UPDATE turns SET record = CAST(record || ' ' AS BLOB) WHERE id = ?", turn_id)

    def damage_journal(self, store: ThreadStore, turn_id: str, n: int) -> None:
        sql = "UPDATE journal SET record = CAST(record || ' ' AS BLOB) WHERE turn = ? AND n = ?"
        behind_its_back(store, sql, turn_id, n)


class TestSQLiteStoreWhoseWriterHasAThread(TestSQLiteStore):
    """The same, where the disk is slow: every write goes through the writer's thread."""

    def make_store(self) -> ThreadStore:
        store = SQLiteStore(self.folder / "threads.db")
        store._shared.database._commit_seconds = 1e9
        return store


def make_in_memory_file() -> ThreadStore:
    folder = tempfile.mkdtemp(prefix="holdfast-test-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    return _Temporary(folder)


class _Temporary(SQLiteStore):
    def __init__(self, folder: str) -> None:
        super().__init__(os.path.join(folder, "threads.db"))
        self._folder = folder

    def close(self) -> None:
        super().close()
        for name in os.listdir(self._folder):
            os.unlink(os.path.join(self._folder, name))
        os.rmdir(self._folder)


def left_over(store: ThreadStore) -> list[str]:
    """The tables that still hold something of a thread."""
    connection = apsw.Connection(store.location)
    made: list[Any] = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    tables = {name for (name,) in made} & {"turns", "branches", "runs", "journal"}
    found = [table for table in tables if connection.execute(f"SELECT count(*) FROM {table}").get]
    connection.close()
    return found


TestAnyOrder = store_machine(make_in_memory_file, left_over).TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
