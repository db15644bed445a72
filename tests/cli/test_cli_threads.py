"""`holdfast threads`: lists that fit for people, whole values for programs, and clear words where there is nothing."""

import json
import re
import sqlite3
from datetime import datetime

import pytest

from holdfast import ChatMessage, ImageContent, SQLiteStore, ToolCallContent, ToolResultContent
from holdfast.cli.transcript import ago, counted
from holdfast.clients.offline import OfflineChatClient
from holdfast.testing.openai_chat import Say, Usage

US = 1_000_000


async def keep(path, thread_id, *messages, title=None):
    store = SQLiteStore(path)
    thread = OfflineChatClient().create_agent(thread_store=store).get_new_thread(thread_id)
    await thread.add_messages(list(messages))
    if title is not None:
        await store.update(thread_id, title=title)
    store.close()


def user(text):
    return ChatMessage("user", text=text)


def assistant(text):
    return ChatMessage("assistant", text=text)


@pytest.fixture
async def store(tmp_path):
    path = tmp_path / "chats.db"
    await keep(path, "first", user("Tell me a joke\nabout a pirate."), assistant("Arrr."), user("Thanks."))
    await keep(path, "second \x9d".strip(" \x9d") + "  with  spaces", user("海賊" * 100), assistant("はい"))
    await keep(path, "third", user("whatever"), title="A \x1b[31mred\ttitle")
    return path


def test_a_list_for_programs(holdfast, store):
    done = holdfast("threads", "list", "--store", str(store))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("third", "1", ""),
        ("second  with  spaces", "1", ""),
        ("first", "2", ""),
    ]
    assert [row[4] for row in rows] == ["A ␛[31mred title", "海賊" * 100, "Tell me a joke about a pirate."]
    assert datetime.fromisoformat(rows[0][2]).utcoffset() is not None
    assert holdfast("threads", "list", "--limit", "2", "--store", str(store)).stdout.count("\n") == 2


def test_a_list_as_json(holdfast, store):
    done = holdfast("threads", "list", "--json", "--store", f"sqlite:///{store}")
    rows = json.loads(done.stdout)
    assert [row["id"] for row in rows] == ["third", "second  with  spaces", "first"]
    assert rows[0]["title"] == "A \x1b[31mred\ttitle"
    assert rows[2]["first_words"] == "Tell me a joke\nabout a pirate."
    assert rows[2]["turns"] == 2
    assert rows[2]["open_turn"] is None
    assert not {"\x1b", "\t"} & set(done.stdout)


@pytest.mark.parametrize("columns", [100, 60])
def test_a_list_for_people_fits(terminal, store, columns):
    listing = terminal("threads", "list", "--store", str(store), columns=columns, NO_COLOR="1")
    assert listing.end() == 0
    lines = listing.seen.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("A ␛[31mred title  ")
    assert lines[0].endswith("1 turn · just now")
    assert lines[1].startswith("  third ")
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d$", lines[1])
    assert "…  " in lines[2]
    assert {len(line) for line in lines if line.isascii()} <= {columns}


def test_a_list_for_people_ends(terminal, store):
    listing = terminal("threads", "list", "--limit", "1", "--store", str(store))
    assert listing.end() == 0
    assert "There are more; --limit" in listing.seen


async def test_a_conversation(holdfast, tmp_path):
    call = ToolCallContent("call_1", "weather", '{"city": "Oslo"}')
    await keep(
        tmp_path / "chats.db",
        "all kinds",
        ChatMessage("system", text="Be brief."),
        ChatMessage("user", contents=["What is this?", ImageContent("data:image/png;base64," + "A" * 1000)]),
        ChatMessage("assistant", contents=[call]),
        ChatMessage("tool", contents=[ToolResultContent("call_1", "rain")]),
        ChatMessage("assistant", text="Rain,\x1b[5m I think.", author_name="Skald"),
        user("Thanks."),
    )
    done = holdfast("threads", "show", "all kinds", "--store", "chats.db")
    assert done.returncode == 0
    assert done.stdout.startswith("all kinds\n2 turns · begun ")
    _, first, second = done.stdout.split("\n\n")
    assert first.splitlines()[1:] == [
        "instructions: Be brief.",
        f"you: What is this?[image data:image/png;base64,{'A' * 58}…]",
        'assistant: [calls weather {"city": "Oslo"}]',
        "tool: [result of weather: rain]",
        "Skald: Rain,␛[5m I think.",
    ]
    assert second.splitlines()[1:] == ["you: Thanks."]
    last = holdfast("threads", "show", "all kinds", "--store", "chats.db", "--last", "1", "--json")
    (turn,) = json.loads(last.stdout)["turns"]
    assert turn["seq"] == 2
    assert turn["input"] == [{"role": "user", "contents": [{"type": "text", "text": "Thanks."}]}]


def test_tokens_and_models_are_told(holdfast, service, there):
    service.script(Say("Hello.", usage=Usage(1_200, 30, cached_tokens=1_000)))
    holdfast("chat", *there, "--thread", "a", said="Hello.\n")
    shown = holdfast("threads", "show", "a").stdout
    assert re.search(r"turn 1 · .* · stand-in · 1,200 tokens in \(1,000 cached\), 30 out\n", shown)


def test_nothing_there(holdfast, tmp_path):
    done = holdfast("threads", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"holdfast: There are no threads yet: {tmp_path}/data/holdfast does not exist. Begin one with: holdfast chat\n"
    )
    done = holdfast("threads", "list", "--store", "typo.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"holdfast: There are no threads: {tmp_path}/typo.db does not exist. Check --store.\n"
    assert list(tmp_path.iterdir()) == []  # looking creates nothing


def test_no_such_thread(holdfast, store):
    done = holdfast("threads", "show", "fourth", "--store", str(store))
    assert done.returncode == 1
    assert done.stderr == (
        f"holdfast: There is no thread 'fourth' in {store}. 'holdfast threads list' lists what there is.\n"
    )


def test_a_file_that_is_no_database_of_ours(holdfast, tmp_path):
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        theirs.execute("CREATE TABLE t (x)")
    theirs.close()
    done = holdfast("threads", "list", "--store", "theirs.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert "theirs.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_damage_is_told_and_hides_nothing_else(holdfast, store):
    with sqlite3.connect(store) as database:
        database.execute("UPDATE turns SET record = CAST(replace(CAST(record AS TEXT), 'Arrr', 'Brrr') AS BLOB)")
    database.close()
    listed = holdfast("threads", "list", "--store", str(store))
    assert listed.returncode == 0
    assert "(its first turn cannot be read)" in listed.stdout
    assert listed.stdout.count("\n") == 3
    shown = holdfast("threads", "show", "first", "--store", str(store))
    assert shown.returncode == 1
    assert "is not what was written" in shown.stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7_300, "2 hours ago"),
        (90_000, "1 day ago"),
        (86_400 * 400, "400 days ago"),
        (-5, ""),
    ],
)
def test_how_long_ago(seconds, words):
    now = 1_800_000_000 * US
    assert ago(now - seconds * US, now) == words


def test_counting():
    assert [counted(n, "turn") for n in (0, 1, 2)] == ["no turns", "1 turn", "2 turns"]
    assert [counted(n, "branch", "branches") for n in (0, 1, 2)] == ["no branches", "1 branch", "2 branches"]
