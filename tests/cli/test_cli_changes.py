"""`holdfast threads fork|rewind|rename|delete`: what they do, what they say, and what they refuse."""

import asyncio
import os
import sqlite3

import pytest

from holdfast import AgentThread, ChatMessage, SQLiteStore


async def keep(path, thread_id, *said, title=None):
    """A thread on which these were said, each answered with the same in capitals."""
    store = SQLiteStore(path)
    thread = AgentThread(store, thread_id)
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


def test_in_the_middle_of_a_turn(on, said, in_the_middle):
    in_the_middle("a thread")
    rewound, deleted, renamed, fork = on(
        ("rewind", "a thread"),
        ("delete", "a thread", "--yes"),
        ("rename", "a thread", "meanwhile"),
        ("fork", "a thread"),
    )
    assert rewound.returncode == deleted.returncode == 1
    assert "cannot be rewound: turn turn_of_a thread is being made on it" in rewound.stderr
    assert "--interrupt deletes it all the same" in deleted.stderr
    assert renamed.returncode == 0
    assert said("a thread") == said(fork.stdout.strip()) == ["one", "two", "three"]
    (deleted,) = on(("delete", "a thread", "--yes", "--interrupt"))
    assert deleted.returncode == 0
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
            for action, *rest in (("fork",), ("rewind",), ("rename", "title"), ("export",), ("delete", "--yes"))
        )
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert "typo.db does not exist. Check --store." in done.stderr
    assert not os.path.exists(tmp_path / "typo.db")
