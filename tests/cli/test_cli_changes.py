"""`holdfast threads fork|rewind|rename|branches|switch|delete`: what they do, what they say, and what they refuse."""

import asyncio
import json
import os
import re
import sqlite3
from datetime import datetime

import pytest

from holdfast import AgentThread, ChatMessage, SQLiteStore


async def keep(path, thread_id, *said, title=None):
    """A thread on which these were said, each answered with the same in capitals."""
    store = SQLiteStore(path)
    thread = AgentThread(store, thread_id, intent="either")
    for text in said:
        await thread.add_messages([ChatMessage("user", text=text), ChatMessage("assistant", text=text.upper())])
    if title is not None:
        await store.update(thread_id, title=title)
    store.close()


@pytest.fixture
def on(commands):
    """Runs `holdfast threads ...` on the store, for each of the arguments."""
    return lambda *each: commands(*(("threads", action, "--store", "chats.db", *rest) for action, *rest in each))


@pytest.fixture
def said(tmp_path):
    """What was said on a thread, in order; None if there is none."""

    async def read(thread_id):
        store = SQLiteStore(tmp_path / "chats.db")
        try:
            info = await store.get(thread_id)
            if info is None:
                return None
            messages = await AgentThread(store, thread_id, intent="existing").messages()
            return [message.text for message in messages if message.role == "user"]
        finally:
            store.close()

    return lambda thread_id: asyncio.run(read(thread_id))


@pytest.fixture(autouse=True)
def three_turns(tmp_path):
    asyncio.run(keep(tmp_path / "chats.db", "a thread", "one", "two", "three", title="A \x1b[31mred\ttitle"))


# --- fork ------------------------------------------------------------------------------------------------------


def test_a_fork_prints_its_id_and_stands_for_itself(on, said):
    hostile = "'; DROP TABLE turns; -- ../../x"
    whole, refused, early = on(
        ("fork", "a thread"),
        ("fork", "a thread", "--id", "-hostile"),
        ("fork", "a thread", "--at", "1", f"--id={hostile}"),
    )
    assert (whole.returncode, whole.stderr) == (0, "")
    (made,) = whole.stdout.splitlines()
    assert made.startswith("thread_")
    assert said(made) == ["one", "two", "three"]
    assert refused.returncode == 2
    assert early.stdout == hostile + "\n"
    assert said(hostile) == ["one"]
    assert said("a thread") == ["one", "two", "three"]


def test_a_fork_for_people(terminal, said):
    fork = terminal("threads", "fork", "a thread", "--id", "it's", "--at", "2", "--store", "chats.db")
    assert fork.end() == 0
    assert fork.seen == (
        "Thread it's begins with 2 turns of a thread, which stays as it is.\n"
        "Go on with: holdfast chat --thread 'it'\"'\"'s' --store chats.db\n"
    )
    assert said("it's") == ["one", "two"]


def test_what_cannot_be_forked(on):
    wrong = {
        ("a thread", "--at", "4"): "has 3 turns, and so no turn 4.",
        ("a thread", "--at", "0"): "has 3 turns, and so no turn 0.",
        ("a thread", "--at", "9" * 5000): "has 3 turns, and so no turn 99999999999999999999.",
        ("a thread", "--at", "turn_nowhere"): "has no turn 'turn_nowhere'",
        ("a thread", "--id", "a thread"): "There is a thread 'a thread' already.",
        ("a thread", "--id", "bell\a"): "holds printable characters only; got '\\x07'",
        ("a\x1b[2Jthread",): "holds printable characters only; got '\\x1b'",
        ("",): "has at least one character",
        ("%",): "There is no thread '%'",
    }
    for done, words in zip(on(*(("fork", *rest) for rest in wrong)), wrong.values(), strict=True):
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert not {"\x1b", "\a"} & set(done.stderr)


def test_a_fork_before_damage(on, said, tmp_path):
    with sqlite3.connect(tmp_path / "chats.db") as database:
        database.execute("UPDATE turns SET record = CAST('{}' AS BLOB) WHERE seq = 3")
    database.close()
    sound, damaged = on(("fork", "a thread", "--at", "2"), ("fork", "a thread", "--at", "3"))
    assert said(sound.stdout.strip()) == ["one", "two"]
    assert "is not what was written" in damaged.stderr


# --- rewind and rename -----------------------------------------------------------------------------------------


def test_rewinding(on, said):
    one, to, again, far, both, none = on(
        ("rewind", "a thread"),
        ("rewind", "a thread", "--to", "1"),
        ("rewind", "a thread", "--to", "1"),
        ("rewind", "a thread", "2"),
        ("rewind", "a thread", "1", "--to", "1"),
        ("rewind", "a thread", "0"),
    )
    assert one.stdout == to.stdout == again.stdout == "a thread\n"
    assert far.returncode == 1
    assert "cannot go back 2" in far.stderr
    assert both.returncode == none.returncode == 2
    assert said("a thread") == ["one"]


def test_rewinding_for_people(terminal, said):
    back = terminal("threads", "rewind", "a thread", "2", "--store", "chats.db")
    assert back.end() == 0
    assert back.seen == (
        "Thread a thread has 1 turn now, instead of 3.\n"
        "What was taken back stays in the store; what is said next begins a new branch.\n"
    )
    assert said("a thread") == ["one"]


def test_renaming(on, terminal):
    named, listed, unnamed, shown, long = on(
        ("rename", "a thread", "Pirates  &", "co"),
        ("list",),
        ("rename", "a thread", ""),
        ("show", "a thread", "--json"),
        ("rename", "a thread", "x" * 1001),
    )
    assert named.stdout == "a thread\n"
    assert "\tPirates & co\n" in listed.stdout
    assert unnamed.returncode == 0
    assert '"title": null' in shown.stdout
    assert "at most 1,000 characters" in long.stderr
    rename = terminal("threads", "rename", "a thread", "a \x1b]0;title\x07", "--store", "chats.db")
    assert rename.end() == 0
    assert rename.seen == "Thread a thread: a ␛]0;title␇\n"


# --- branches --------------------------------------------------------------------------------------------------


@pytest.fixture
def branched(tmp_path, three_turns):
    """The thread, on a second branch that begins after its first turn."""

    async def branch():
        store = SQLiteStore(tmp_path / "chats.db")
        await AgentThread(store, "a thread", intent="existing").rewind(2)
        store.close()
        await keep(tmp_path / "chats.db", "a thread", "t\x1b[2Jwo\tagain")

    asyncio.run(branch())


def test_branches_for_programs(on, branched):
    listed, as_json, shown = on(("branches", "a thread"), ("branches", "a thread", "--json"), ("show", "a thread"))
    first, second = (line.split("\t") for line in listed.stdout.splitlines())
    one, two = json.loads(as_json.stdout)
    assert [first[1], *first[3:]] == ["3", "", "", "three", "THREE"]
    assert [second[1], *second[3:]] == ["2", two["parts_after"], "*", "t␛[2Jwo again", "T␛[2JWO AGAIN"]
    assert [first[0], second[0]] == [one["turn"], two["turn"]] == [one["last"]["id"], two["last"]["id"]]
    assert datetime.fromisoformat(second[2]) == datetime.fromisoformat(two["ended"])
    assert [row["number"] for row in (one, two)] == [1, 2]
    assert [row["stands_at"] for row in (one, two)] == [None, 2]
    assert [row["current"] for row in (one, two)] == [False, True]
    assert two["last"]["input"][0]["contents"][0]["text"] == "t\x1b[2Jwo\tagain"
    assert "\x1b" not in listed.stdout + as_json.stdout
    assert shown.stdout.splitlines()[1].startswith("2 turns · 2 branches · begun ")


def test_branches_for_people(terminal, branched):
    listing = terminal("threads", "branches", "a thread", "--store", "chats.db", columns=60)
    assert listing.end() == 0
    assert "\x1b[2J" not in listing.seen
    lines = re.sub("\x1b\\[\\d*m", "", listing.seen).splitlines()
    assert [line[:11].rstrip() for line in lines] == ["  1 three", "    THREE", "* 2 t␛[2Jwo", "    T␛[2JWO"]
    assert [len(line) for line in lines[::2]] == [60, 60]


def test_switching(on, said, branched):
    by_number, listed = on(("switch", "a thread", "1"), ("branches", "a thread"))
    assert by_number.stdout == "a thread\n"
    assert said("a thread") == ["one", "two", "three"]
    (first, *_), (second, *_) = (line.split("\t") for line in listed.stdout.splitlines())
    by_id, none, huge, unknown = on(
        ("switch", "a thread", second),
        ("switch", "a thread", "3"),
        ("switch", "a thread", "9" * 5000),
        ("switch", "a thread", "turn_nowhere"),
    )
    assert by_id.stdout == "a thread\n"
    assert said("a thread") == ["one", "t\x1b[2Jwo\tagain"]
    for done, words in ((none, "no branch 3;"), (huge, "no branch 99999999999999999999;"), (unknown, "has no turn")):
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    assert first != second


def test_switching_for_people(terminal, said, branched):
    switch = terminal("threads", "switch", "a thread", "1", "--store", "chats.db")
    assert switch.end() == 0
    assert re.fullmatch(
        "Thread a thread stands at turn turn_\\w+ now, with 3 turns.\n"
        "Nothing is lost: what it stood at before is among its branches.\n",
        switch.seen,
    )
    assert said("a thread") == ["one", "two", "three"]


def test_damage_on_another_branch_hides_nothing_of_this_one(on, branched, tmp_path):
    with sqlite3.connect(tmp_path / "chats.db") as database:
        database.execute("UPDATE turns SET record = CAST('{}' AS BLOB) WHERE seq = 3")
    database.close()
    shown, listed = on(("show", "a thread"), ("branches", "a thread"))
    assert shown.stdout.startswith("A ␛[31mred title · a thread\n2 turns · branches that cannot be read · begun ")
    assert (listed.returncode, listed.stdout) == (1, "")
    assert "is not what was written" in listed.stderr


def test_a_thread_on_which_nothing_was_said(answering, on, terminal):
    answering("b")
    (listed,) = on(("branches", "b"))
    assert (listed.returncode, listed.stdout) == (0, "")
    listing = terminal("threads", "branches", "b", "--store", "chats.db")
    assert listing.end() == 0
    assert listing.seen == "Nothing was said on thread b yet.\n"


# --- shortened ids ---------------------------------------------------------------------------------------------


async def test_an_id_may_be_shortened_while_it_means_one_thread(on, tmp_path):
    await keep(tmp_path / "chats.db", "a thread more", "else")
    await keep(tmp_path / "chats.db", "b_%", "else")
    exact, shortened, shown, several, none = on(
        ("rename", "a thread", "exact"),
        ("rename", "a thread m", "shortened"),
        ("show", "b"),
        ("delete", "a", "--yes"),
        ("delete", "%", "--yes"),
    )
    assert exact.stdout == "a thread\n"
    assert shortened.stdout == "a thread more\n"
    assert shown.stdout.startswith("b_%\n")
    assert (several.returncode, several.stdout) == (1, "")
    assert several.stderr == (
        "holdfast: 'a' may mean any of 2 threads: a thread more, a thread. Type more of the id.\n"
    )
    assert "There is no thread '%'" in none.stderr


# --- delete ----------------------------------------------------------------------------------------------------


def test_deleting_in_a_pipe_takes_a_yes(holdfast, on, said):
    done = holdfast("threads", "delete", "a thread", "--store", "chats.db", said="y\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--yes" in done.stderr
    fork, deleted, again = on(
        ("fork", "a thread", "--at", "2"), ("delete", "a thread", "--yes"), ("delete", "a thread", "--yes")
    )
    assert deleted.stdout == "a thread\n"
    assert said("a thread") is None
    assert said(fork.stdout.strip()) == ["one", "two"]
    assert "There is no thread 'a thread'" in again.stderr


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ("y\r", 0, "Thread a thread is deleted.\n"),
        ("\x04", 1, "holdfast: Nothing was deleted.\n"),
        ("\x03", 130, ""),
    ],
)
def test_a_person_is_asked(terminal, said, keys, code, words):
    delete = terminal("threads", "delete", "a thread", "--store", "chats.db")
    asked = delete.wait_for(r"\[y/N\] \Z")
    assert asked == 'Delete thread a thread ("A ␛[31mred title", 3 turns)? It cannot be undone. [y/N] '
    delete.wait_until_it_waits()
    delete.type(keys)
    assert delete.end() == code
    assert delete.seen.endswith(words)
    assert (said("a thread") is None) == (code == 0)


def test_a_person_is_asked_beside_a_pipe(terminal, said, tmp_path):
    delete = terminal("threads", "delete", "a thread", "--store", "chats.db", into=tmp_path / "out")
    delete.wait_for(r"\[y/N\] \Z")
    delete.line("yes")
    assert delete.end() == 0
    assert (tmp_path / "out").read_text() == "a thread\n"


# --- while others are at it ------------------------------------------------------------------------------------


def test_in_the_middle_of_a_turn(on, said, answering):
    process = answering("a thread")
    rewound, deleted, renamed, fork = on(
        ("rewind", "a thread"),
        ("delete", "a thread", "--yes"),
        ("rename", "a thread", "meanwhile"),
        ("fork", "a thread"),
    )
    assert rewound.returncode == deleted.returncode == 1
    assert "cannot be moved to another turn: turn turn_" in rewound.stderr
    for done in (rewound, deleted):
        assert done.stderr.endswith("Wait until that run has ended, or cancel it first. --interrupt does that.\n")
    assert renamed.returncode == 0
    assert said("a thread") == said(fork.stdout.strip()) == ["one", "two", "three"]
    (deleted,) = on(("delete", "a thread", "--yes", "--interrupt"))
    assert deleted.returncode == 0
    assert process.stdout.readline() == b"cancelled Once upon \n"  # it was ended, and not cut off
    assert said("a thread") is None
    assert said(fork.stdout.strip()) == ["one", "two", "three"]


def test_what_a_killed_program_left_is_in_nobodys_way(on, said, in_the_middle):
    for thread_id in ("a thread", "another"):
        process = in_the_middle(thread_id)
        process.kill()
        process.wait(20)
    rewound, deleted = on(("rewind", "a thread", "--to", "2"), ("delete", "another", "--yes"))
    assert rewound.returncode == deleted.returncode == 0
    assert said("a thread") == ["one", "two"]
    assert said("another") is None


def test_no_store(commands, tmp_path):
    for done in commands(
        *(
            ("threads", action, "--store", "typo.db", "a", *rest)
            for action, *rest in (
                ("fork",),
                ("rewind",),
                ("rename", "title"),
                ("branches",),
                ("switch", "1"),
                ("stop",),
                ("export",),
                ("delete", "--yes"),
            )
        )
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert "typo.db does not exist. Check --store." in done.stderr
    assert not os.path.exists(tmp_path / "typo.db")
