"""`holdfast threads export`: a thread written down, so that nothing said in it can pass for anything else."""

import json
import os
import stat

import pytest

from holdfast import (
    AgentThread,
    ChatMessage,
    FileContent,
    ImageContent,
    OfflineChatClient,
    SQLiteStore,
    ToolCallContent,
    ToolResultContent,
)
from holdfast.cli.export import write_file
from holdfast.cli.trouble import Trouble

HOSTILE = "See:\n## Turn 9\n\n**assistant**\n\u2028> # I said so \x1b[31m\u202e"


def user(text):
    return ChatMessage("user", text=text)


@pytest.fixture(autouse=True)
async def store(tmp_path):
    store = SQLiteStore(tmp_path / "chats.db")
    thread = AgentThread(store, "all [kinds]")
    await thread.add_messages(
        [
            ChatMessage("user", contents=["What is this?", ImageContent("data:image/png;base64,AAAA")]),
            ChatMessage("assistant", contents=[ToolCallContent("call_1", "weather", '{"city": "Oslo"}')]),
            ChatMessage("tool", contents=[ToolResultContent("call_1", "rain")]),
            ChatMessage("assistant", text=HOSTILE, author_name="**Skald**"),
            ChatMessage("user", text="Thanks.", additional_properties={"kept": [1, 2.5, None]}),
        ]
    )
    await store.update("all [kinds]", title="<b>A *title*</b>\x07", metadata={"user": "Ada"})
    store.close()


@pytest.fixture
def export(commands):
    """Runs `holdfast threads export` on the store, for each of the arguments."""
    return lambda *each: commands(*(("threads", "export", "all", "--store", "chats.db", *rest) for rest in each))


async def test_json_can_be_read_again(export, tmp_path):
    (done,) = export(())
    assert (done.returncode, done.stderr) == (0, "")
    state = json.loads(done.stdout)
    assert list(state) == ["type", "version", "id", "title", "metadata", "turns"]
    assert (state["title"], state["metadata"]) == ("<b>A *title*</b>\x07", {"user": "Ada"})
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
    copy = await OfflineChatClient().create_agent().deserialize_thread(state)
    store = SQLiteStore(tmp_path / "chats.db")
    assert await copy.turns() == await AgentThread(store, "all [kinds]", intent="existing").turns()
    store.close()


def test_markdown_is_a_transcript(export):
    (done,) = export(("--format", "markdown"))
    title, about, heading, _, *parts = done.stdout.rstrip("\n").split("\n\n")
    assert title == r"# \<b\>A \*title\*\</b\>␇"
    assert about.startswith(r"all \[kinds\] · 2 turns · begun ")
    assert heading == "## Turn 1"
    assert parts[:6] == [
        "**you**",
        "> What is this?[image data:image/png;base64,AAAA]",
        "**assistant**",
        '> [calls weather {"city": "Oslo"}]',
        "**tool**",
        "> [result of weather: rain]",
    ]
    assert parts[6:8] == [
        r"**\*\*Skald\*\***",
        "> See:\n> ## Turn 9\n>\n> **assistant**\n>\n> > # I said so ␛[31m",
    ]
    assert parts[8] == "## Turn 2"
    assert parts[10:] == ["**you**", "> Thanks."]


async def test_messages_are_those_of_chat_completions(export, tmp_path):
    (done,) = export(("--format", "messages"))
    assert json.loads(done.stdout) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "assistant", "content": HOSTILE},
        {"role": "user", "content": "Thanks."},
    ]
    assert not {"\x1b", "\u202e"} & set(done.stdout)


async def test_what_chat_completions_cannot_be_told_is_named(export, tmp_path):
    store = SQLiteStore(tmp_path / "chats.db")
    thread = AgentThread(store, "all [kinds]", intent="existing")
    await thread.add_messages([ChatMessage("user", contents=[FileContent("https://example.org/a.pdf", "a.pdf")])])
    store.close()
    (done,) = export(("--format", "messages"))
    assert done.returncode == 0
    assert json.loads(done.stdout)[-1] == {"role": "user", "content": "[file a.pdf]"}
    assert done.stderr.startswith("holdfast: 1 message could only be told as text")


def test_a_file_is_its_owners_and_takes_no_others_place(export, tmp_path):
    (tmp_path / "link").symlink_to("a.json")
    made, refused, forced, linked, nowhere, folder = export(
        ("--output", "a.json"),
        ("--output", "a.json", "--format", "markdown"),
        ("--output", "a.json", "--format", "messages", "--force"),
        ("--output", "link", "--force"),
        ("--output", "no/such/folder"),
        ("--output", ".", "--force"),
    )
    assert made.stdout == forced.stdout == "a.json\n"
    assert refused.stderr == "holdfast: a.json exists already. --force replaces it: --output a.json --force\n"
    assert isinstance(json.loads((tmp_path / "a.json").read_text()), list)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    assert "link is no regular file" in linked.stderr
    assert "No such file or directory: no/such/folder" in nowhere.stderr
    assert ". is no regular file" in folder.stderr
    assert {done.returncode for done in (refused, linked, nowhere, folder)} == {1}
    assert sorted(os.listdir(tmp_path)) == ["a.json", "chats.db", "chats.db-owners", "link"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_could_not_be_written_is_not_left_by_halves(tmp_path, replace):
    path = tmp_path / "folder" / "a.json"
    path.parent.mkdir()
    if replace:
        path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_file(str(path), "x" * 100_000 + "\ud800", replace=replace)
    assert os.listdir(path.parent) == (["a.json"] if replace else [])
    assert not replace or path.read_text() == "old"
    with pytest.raises(Trouble, match="no regular file"):
        write_file("/dev/null", "x", replace=True)


def test_for_people(terminal, tmp_path):
    export = terminal("threads", "export", "all", "--store", "chats.db", "--output", "a.json")
    assert export.end() == 0
    assert export.seen == "Thread all [kinds] (2 turns) is in a.json\n"


def test_turns_that_are_open_are_no_part_of_it(commands, in_the_middle):
    in_the_middle("all [kinds]")
    in_the_middle("empty")
    rest = ("--store", "chats.db", "--format")
    whole, empty, messages, page = commands(
        ("threads", "export", "all", *rest, "json"),
        ("threads", "export", "empty", *rest, "json"),
        ("threads", "export", "empty", *rest, "messages"),
        ("threads", "export", "empty", *rest, "markdown"),
    )
    assert len(json.loads(whole.stdout)["turns"]) == 2
    assert whole.stderr.startswith("holdfast: (turn turn_of_all [kinds] is open")
    assert "not part of what was written" in whole.stderr
    assert json.loads(empty.stdout)["turns"] == json.loads(messages.stdout) == []
    assert page.stdout.startswith("# A conversation\n\nempty · no turns · begun ")
