"""`holdfast backup`: the file that it makes, what it says, and what it refuses."""

import json
import re
import stat

import apsw
import pytest

from holdfast import AgentThread, ChatMessage, SQLiteStore


@pytest.fixture
async def store(tmp_path):
    """A store with a thread of two turns, closed."""
    store = SQLiteStore(tmp_path / "chats.db")
    await AgentThread(store, "a thread").add_messages([ChatMessage("user", text=text) for text in ("one", "two")])
    store.close()
    return tmp_path / "chats.db"


def test_a_backup_is_made_and_is_a_store(holdfast, store, tmp_path):
    done = holdfast("backup", "copy.db", "--store", "chats.db")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/copy.db\n", "")
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    shown = holdfast("threads", "show", "a thread", "--store", "copy.db")
    assert "two" in shown.stdout
    assert holdfast("verify", "copy.db").returncode == 0


def test_while_somebody_is_in_the_middle_of_a_turn(holdfast, store, tmp_path, in_the_middle):
    alive = in_the_middle("a thread")
    assert holdfast("backup", "copy.db", "--store", "chats.db").returncode == 0
    done = holdfast("chat", "--thread", "a thread", "--store", "copy.db", said="And now?\n")
    assert done.returncode == 0
    listed = holdfast("threads", "list", "--store", "copy.db")
    assert listed.stdout.split("\t")[1] == "4"  # two, the one that was cut off, and the new one
    assert alive.poll() is None
    assert holdfast("threads", "list", "--store", "chats.db").stdout.split("\t")[1] == "2"


def test_another_file_is_replaced_only_if_that_is_said(commands, store, tmp_path):
    (tmp_path / "copy.db").write_text("something else")
    arguments = ("backup", "copy.db", "--store", "chats.db")
    refused, forced, state = commands(arguments, (*arguments, "--force"), (*arguments, "--force", "--json"))
    assert refused.returncode == 1
    assert refused.stderr == "holdfast: copy.db exists already. --force replaces it.\n"
    assert forced.returncode == 0
    made = json.loads(state.stdout)
    assert (made["path"], made["threads"], made["turns"]) == (str(tmp_path / "copy.db"), 1, 2)
    assert made["bytes"] == (tmp_path / "copy.db").stat().st_size


def test_what_is_refused(commands, store, tmp_path):
    there = ("--store", "chats.db")
    nowhere, memory, itself, folder, nothing = commands(
        ("backup", "copy.db", "--store", "nowhere.db"),
        ("backup", "copy.db", "--store", "memory:"),
        ("backup", "chats.db", *there, "--force"),
        ("backup", "no/such/folder/copy.db", *there),
        ("backup", *there),
    )
    assert "nowhere.db does not exist" in nowhere.stderr
    assert "memory end with the program" in memory.stderr
    assert "is the store itself" in itself.stderr
    assert "No such file or directory" in folder.stderr
    assert (nowhere.returncode, memory.returncode, itself.returncode, folder.returncode) == (1, 1, 1, 1)
    assert nothing.returncode == 2
    assert not (tmp_path / "copy.db").exists()


def test_a_damaged_store_is_not_called_a_backup(holdfast, store, tmp_path):
    connection = apsw.Connection(str(store))
    connection.execute("UPDATE turns SET ended = 0 WHERE seq = 2")
    connection.close()
    done = holdfast("backup", "copy.db", "--store", "chats.db")
    assert done.returncode == 1
    assert re.search(r"No backup was made: \S+chats\.db is damaged\. Turn \S+ \(number 2\)", done.stderr)
    assert not (tmp_path / "copy.db").exists()


def test_at_a_terminal_it_says_how_to_go_back_to_it(terminal, store, tmp_path):
    screen = terminal("backup", "copy.db", "--store", "chats.db", columns=200)
    told = screen.wait_for(r"--store \S+copy\.db\r?\n")
    assert "1 thread, 2 turns" in told
    assert "read once more, and all of it is what was written" in told
    assert screen.end() == 0
