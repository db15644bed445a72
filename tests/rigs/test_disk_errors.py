"""A disk that fails: at every call once, and full for real; and the proof that the rig is not blind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from disk_commands import PATIENCE, ROOT, assert_found, campaign
from rigs.disk_full import LIMITS
from rigs.disk_vfs import KINDS

from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient

pytestmark = pytest.mark.timeout(PATIENCE + 20)


def test_every_call_of_three_turns_on_a_new_file_fails_and_the_store_goes_on(tmp_path: Path) -> None:
    code, figures, told = campaign("disk_errors", tmp_path, "--plan", "new")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["faults"].keys() >= {"write, EIO", "write, ENOSPC", "sync, EIO", "lock, EAGAIN", "read, EIO"}, told
    assert {fault.partition(",")[0] for fault in figures["faults"]} == set(KINDS) - {"unlock"}
    assert figures["moments"].keys() >= {"make file", "open file", "open", "journal", "seal", "checkpoint", "delete"}
    assert figures["steps refused"] > 300
    assert figures["turns acknowledged"] > 1500


def test_calls_on_files_that_others_have_left_fail_and_the_store_goes_on(tmp_path: Path) -> None:
    code, figures, told = campaign("disk_errors", tmp_path, "--sample", "300")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["moments"].keys() >= {"take over", "open file", "read"}


def test_every_limit_is_run_into(tmp_path: Path) -> None:
    _, figures, told = campaign("disk_errors", tmp_path, "--limits")
    for limit, (_, values) in LIMITS.items():
        assert figures.get(f"limits on {limit}") == len(values) or any("not possible" in name for name in figures), told
    assert figures["  steps refused there"] > 40


def test_random_errors_in_random_turns(tmp_path: Path) -> None:
    code, figures, told = campaign("disk_errors", tmp_path, "--rounds", "60")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["calls that failed"] > 60


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        ("seal-swallowed", {"acknowledged turn lost", "acknowledged turn changed"}),
        ("raw-error", {"raw error"}),
        ("hangs", {"call hangs"}),
        ("sulks", {"thread stuck"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, kinds: set[str], tmp_path: Path) -> None:
    assert_found("disk_errors", plant, kinds, tmp_path, "--sample", "60")


# --- what it has found ----------------------------------------------------------------------------------------------

ONE_CALL_FAILS = """
import asyncio, errno, sys
from holdfast import SQLiteStore, StoreError
from holdfast.testing.scripted import ScriptedChatClient
from rigs.disk_vfs import disk

folder, kind, file, error, made_before = sys.argv[1:]

class OneCallFails:
    left = 1
    def before(self, call):
        if (call.kind, call.file) == (kind, file) and self.left:
            self.left -= 1
            return getattr(errno, error)
        return 0
    def after(self, call):
        pass

async def turn(store):
    agent = ScriptedChatClient().create_agent(thread_store=store)
    await agent.run("x", thread=agent.get_thread("a", create=True))

async def main():
    disk()
    if made_before == "yes":
        store = SQLiteStore(f"{folder}/threads.db")
        await turn(store)
        store.close()
    disk().watch(OneCallFails(), f"{folder}/threads.db")
    store = SQLiteStore(f"{folder}/threads.db")
    for attempt in range(3):
        try:
            await turn(store)
            print("works")
        except StoreError as error:
            print(type(error).__name__)

asyncio.run(main())
"""


def with_one_failing_call(folder: Path, *fault: str) -> list[str]:
    """What three turns come to, on a store whose disk fails once."""
    command = [sys.executable, "-c", ONE_CALL_FAILS, str(folder), *fault]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.split()


def test_a_file_that_could_not_be_opened_for_writing_at_some_moment_can_be_written_later(tmp_path: Path) -> None:
    """SQLite opens it for reading then, for good."""
    came_to = with_one_failing_call(tmp_path, "open", "database", "EMFILE", "yes")
    assert came_to == ["StoreReadOnlyError", "works", "works"]


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_store_never_works_without_its_write_ahead_log(error: str, tmp_path: Path) -> None:
    """SQLite says nothing when the disk fails while the log is turned on: it goes on without one, for good."""
    came_to = with_one_failing_call(tmp_path, "write", "database", error, "no")
    assert came_to[1:] == ["works", "works"]
    connection = apsw.Connection(str(tmp_path / "threads.db"))
    assert connection.pragma("journal_mode") == "wal"
    connection.close()


def test_a_log_that_somebody_has_turned_off_is_turned_on_again(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    store = SQLiteStore(path)
    asyncio.run(_one_turn(store))
    store.close()
    connection = apsw.Connection(str(path))
    assert connection.pragma("journal_mode", "delete") == "delete"
    connection.close()
    store = SQLiteStore(path)
    asyncio.run(_one_turn(store))
    assert (tmp_path / "threads.db-wal").exists()
    store.close()


async def _one_turn(store: SQLiteStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    await agent.run("x", thread=agent.get_thread("a", create=True))
