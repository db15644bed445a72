"""`holdfast verify`: what it says of sound, damaged and missing stores, in a pipe, at a terminal and as JSON."""

import json
import re

import apsw
import pytest

from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient


@pytest.fixture
async def store(tmp_path):
    """A store with two threads, closed; the ids of the first one's turns."""
    store = SQLiteStore(tmp_path / "chats.db")
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread("a thread")
    for text in ("one", "two", "three"):
        await agent.run(text, thread=thread)
    await thread.fork(thread_id="b")
    other = ScriptedChatClient().create_agent(thread_store=store.for_tenant("acme"))
    await other.run("theirs", thread=other.get_new_thread("x"))
    ids = [turn.id for turn in await thread.turns()]
    store.close()
    return ids


def broken(tmp_path, statement, *values):
    connection = apsw.Connection(str(tmp_path / "chats.db"))
    connection.execute(statement, values)
    connection.close()


def test_a_sound_store(holdfast, store, tmp_path):
    done = holdfast("verify", "chats.db")
    assert (done.returncode, done.stderr) == (0, "")
    told = rf"ok +store +{tmp_path}/chats\.db: 3 threads, 4 turns, \S+ \w+ of records: all of it is what was written"
    assert re.fullmatch(told, done.stdout.rstrip("\n"))
    assert holdfast("verify", "--store", "chats.db").stdout == done.stdout


def test_damage_is_a_line_each_with_the_way_on(holdfast, store, tmp_path):
    broken(tmp_path, "UPDATE turns SET status = 'failed' WHERE id = ?", store[1])
    broken(tmp_path, "UPDATE threads SET title = 'x' WHERE id = 'b'")
    broken(tmp_path, "UPDATE turns SET id = 'x' || char(27) || '[31m' WHERE tenant = 'acme'")
    done = holdfast("verify", "chats.db")
    assert (done.returncode, done.stderr) == (1, "")
    first, theirs, labels, last = done.stdout.splitlines()
    assert re.match(rf"problem +turn +Turn {store[1]} \(number 2\) is damaged: its hash does not match\.", first)
    assert " Threads: a thread, b." in first
    command = f"holdfast threads fork 'a thread' --at {store[0]} --store chats.db"
    assert first.endswith(f"or restore a backup. Here: {command}")
    assert " Tenant: 'acme'." in theirs
    assert "\x1b" not in theirs
    assert labels.startswith("problem  labels    Title or metadata of Thread 'b' is not what was written.")
    assert re.match(r"problem +store +\S+: 3 threads, 4 turns, .*: 3 pieces of damage -> Keep a copy", last)
    arguments = command.replace("'a thread'", "a thread").partition("fork ")[2]
    forked = holdfast("threads", "fork", "a thread", *arguments.removeprefix("a thread ").split())
    assert forked.returncode == 0
    shown = holdfast("threads", "show", forked.stdout.strip(), "--store", "chats.db")
    assert "one" in shown.stdout


def test_as_json(holdfast, store, tmp_path):
    broken(tmp_path, "DELETE FROM turns WHERE id = ?", store[2])
    done = holdfast("verify", "--json", "chats.db")
    assert done.returncode == 1
    state = json.loads(done.stdout)
    assert (state["state"], state["threads"], state["turns"], state["unlisted"]) == ("problem", 3, 3, 0)
    assert state["store"] == str(tmp_path / "chats.db")
    kinds = [(damage["kind"], damage["threads"], damage["fork_at"]) for damage in state["damage"]]
    assert kinds == [("thread", ["a thread"], store[1]), ("thread", ["b"], store[1])]


def test_a_damaged_thread_is_listed_as_such_beside_the_others(holdfast, store, tmp_path):
    broken(tmp_path, "UPDATE threads SET epoch = 99 WHERE id = 'b'")
    done = holdfast("threads", "list", "--store", "chats.db")
    assert done.returncode == 0
    lines = {line.split("\t")[0]: line for line in done.stdout.splitlines()}
    assert lines.keys() == {"a thread", "b"}
    assert lines["b"].endswith("(damaged; 'holdfast verify' tells more)")
    assert lines["a thread"].endswith("one")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere.db", "nowhere.db does not exist"),
        ("letter.txt", "is no database"),
        ("theirs.db", "is a database of another program"),
        ("newer.db", "Update holdfast"),
        ("redis://somewhere", "names no store"),
    ],
)
def test_what_cannot_be_looked_at(holdfast, store, tmp_path, place, words):
    (tmp_path / "letter.txt").write_text("Dear Ada, this is no database. " * 50)
    theirs = apsw.Connection(str(tmp_path / "theirs.db"))
    theirs.execute("CREATE TABLE letters (text)")
    theirs.close()
    (tmp_path / "newer.db").write_bytes((tmp_path / "chats.db").read_bytes())
    newer = apsw.Connection(str(tmp_path / "newer.db"))
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    done = holdfast("verify", place)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_file_that_sqlite_cannot_read_is_damaged(holdfast, store, tmp_path):
    data = bytearray((tmp_path / "chats.db").read_bytes())
    data[100:4096] = bytes(3996)
    (tmp_path / "chats.db").write_bytes(data)
    done = holdfast("verify", "chats.db")
    assert done.returncode == 1
    assert "SQLite cannot read the file" in done.stdout


def test_nothing_is_changed(holdfast, store, tmp_path):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    holdfast("verify", "chats.db")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_at_a_terminal_a_line_says_how_far_it_is_and_goes(terminal, tmp_path, store):
    screen = terminal("verify", "chats.db", columns=80)
    screen.wait_for("was written")
    assert screen.end() == 0
    assert "\x1b[K" in screen.seen
    *_, last = screen.seen.split("\x1b[K")
    assert "turns of" not in last


def test_doctor_points_to_it(holdfast, store, tmp_path):
    data = bytearray((tmp_path / "chats.db").read_bytes())
    data[4096 * 3 : 4096 * 3 + 8] = b"\xff" * 8
    (tmp_path / "chats.db").write_bytes(data)
    done = holdfast("doctor", "--no-network", "--store", "chats.db")
    assert done.returncode == 1
    assert "holdfast verify" in done.stdout
