"""An answer that is stopped from elsewhere: by `holdfast threads stop`, `/stop`, and whatever needs the thread free."""

import asyncio
import subprocess
import sys

import pytest

from holdfast import AgentThread, SQLiteStore
from holdfast.testing.openai_chat import Hang, Say
from holdfast.testing.scripted import ScriptedChatClient

ONCE = Hang(after=3, seconds=None, answer=Say(pieces=["Once ", "upon ", "a ", "time"]))


@pytest.fixture
def telling(terminal, service, there):
    """A chat on the thread `ours`, in the middle of an answer."""
    service.script(ONCE)
    chat = terminal("chat", *there, "--thread", "ours", NO_COLOR="1")
    chat.wait_for_prompt()
    chat.line("Tell me.")
    chat.wait_for("Once upon ")
    return chat


def statuses(kept):
    return [turn.status for turn in kept()]


def test_the_chat_is_told_and_goes_on(telling, holdfast, kept, service):
    done = holdfast("threads", "stop", "ours")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")
    assert telling.wait_for_prompt() == "\nThis answer was stopped from elsewhere. What you saw is kept.\n\n› "
    telling.line("Go on.")
    telling.wait_for("You said: Go on.")
    telling.wait_for_prompt()
    assert [message["content"] for message in service.messages()] == ["Tell me.", "Once upon ", "Go on."]
    telling.type("\x04")
    assert telling.end() == 0
    assert statuses(kept) == ["cancelled", "completed"]


def test_who_stops_it_sees_what_is_kept(telling, terminal):
    stop = terminal("threads", "stop", "our")
    assert stop.end() == 0
    assert stop.seen == (
        "Stopped. What had come of the answer is kept.\n› Tell me.\nOnce upon\nThread ours has 1 turn now.\n"
    )


def test_before_an_answer_came(terminal, holdfast, kept, service, there):
    service.script(Hang(after=None, seconds=None))
    chat = terminal("chat", *there)
    chat.wait_for_prompt()
    chat.line("Tell me.")
    service.block_for_requests(1)
    assert holdfast("threads", "stop", "thread_").returncode == 0
    chat.wait_for("This was stopped from elsewhere before an answer came. Your message is kept.")
    chat.wait_for_prompt()
    assert statuses(kept) == ["cancelled"]


def test_a_chat_in_a_pipe_fails_with_what_had_come(home, there, holdfast, service, kept, tmp_path):
    service.script(ONCE)
    chat = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "chat", *there, "--thread", "ours"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=home,
        cwd=tmp_path,
        text=True,
        bufsize=0,
    )
    chat.stdin.write("Tell me.\nnever sent\n")
    assert chat.stdout.read(10) == "Once upon "
    holdfast("threads", "stop", "ours")
    rest, complaints = chat.communicate(timeout=20)
    assert (chat.returncode, rest) == (1, "\n")
    assert complaints.splitlines()[-1] == ("holdfast: This answer was stopped from elsewhere. What you saw is kept.")
    assert statuses(kept) == ["cancelled"]
    assert len(service.requests) == 1


def test_nothing_to_stop(holdfast, there):
    holdfast("chat", *there, "--thread", "ours", said="a\n")
    for thread, words in (("ours", "nothing to stop"), ("theirs", "There is no thread 'theirs'")):
        done = holdfast("threads", "stop", thread)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_what_a_dead_program_left_is_left_to_be_gone_on_with(answering, holdfast):
    process = answering("ours")
    process.kill()
    process.wait(20)
    done = holdfast("threads", "stop", "ours", "--store", "chats.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The program that was answering has ended already, so there is nothing to stop." in done.stderr
    assert "turn_" in holdfast("threads", "list", "--store", "chats.db").stdout


# --- from another chat -----------------------------------------------------------------------------------------


def test_a_second_chat_stops_the_first(telling, terminal, service, there):
    second = terminal("chat", *there, "--thread", "ours", columns=200, NO_COLOR="1")
    banner = second.wait_for_prompt()
    assert "\n› Tell me.\n" in banner
    assert "is open: another program is answering on this thread now)" in banner
    assert "Your next message waits for it. /stop ends it." in banner
    for line in ("/resume", "/again"):
        second.line(line)
        assert "/stop ends it." in second.wait_for_prompt()
    second.line("/rewind")
    assert "/stop ends what is being made there." in second.wait_for_prompt()
    second.line("/stop")
    told = second.wait_for_prompt()
    assert "Stopped. What had come of the answer is kept.\n\n› Tell me.\nOnce upon\n(stopped before" in told
    assert "What you saw is kept." in telling.wait_for_prompt()
    second.line("/stop")
    assert "nothing to stop" in second.wait_for_prompt()


def test_who_waits_in_line_is_next(telling, terminal, holdfast, service, there):
    service.script("Ahoy!")
    second = terminal("chat", *there, "--thread", "ours")
    second.wait_for_prompt()
    second.line("And me.")
    second.wait_for("Waiting for another process")
    second.wait_for("/stop then ends what is being made there.")
    assert holdfast("threads", "stop", "ours").returncode == 0
    second.wait_for("Ahoy!")
    telling.wait_for("What you saw is kept.")
    assert [message["content"] for message in service.messages()] == ["Tell me.", "Once upon ", "And me."]


# --- what needs the thread free --------------------------------------------------------------------------------


def test_a_thread_that_is_deleted_meanwhile(telling, holdfast, kept):
    refused = holdfast("threads", "delete", "ours", "--yes")
    assert refused.returncode == 1
    assert refused.stderr.endswith("or cancel it first. --interrupt does that.\n")
    assert holdfast("threads", "delete", "ours", "--yes", "--interrupt").stdout == "ours\n"
    assert "This answer was stopped from elsewhere" in telling.wait_for_prompt()
    telling.line("Are you there?")
    told = telling.wait_for_prompt()
    assert "was deleted" in told
    assert "/new begins another thread." in told
    telling.line("/new")
    telling.wait_for_prompt()
    telling.line("Hello.")
    telling.wait_for("You said: Hello.")


def test_a_turn_that_is_taken_back_while_it_is_made(telling, holdfast, service):
    refused = holdfast("threads", "rewind", "ours")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert holdfast("threads", "rewind", "ours", "--interrupt").stdout == "ours\n"
    telling.wait_for("from elsewhere")
    telling.wait_for_prompt()
    telling.line("Hello.")
    telling.wait_for("You said: Hello.")
    assert [message["content"] for message in service.messages()] == ["Hello."]


def test_how_many_turns_are_left_then(answering, terminal):
    answering("ours")
    back = terminal("threads", "rewind", "ours", "--interrupt", "--store", "chats.db")
    assert back.end() == 0
    assert back.seen.startswith("Thread ours has no turns now, instead of 0 and one that had not ended.\n")


def test_a_thread_that_goes_to_another_branch_meanwhile(answering, commands, tmp_path):
    process = answering("ours")
    on = ("ours", "--store", "chats.db")
    commands(("threads", "stop", *on), ("threads", "rewind", *on))
    assert process.wait(20) == 0
    process = answering("ours")
    refused, moved = commands(("threads", "switch", *on, "1"), ("threads", "switch", *on, "1", "--interrupt"))
    assert refused.returncode == 1
    assert refused.stderr.endswith("--interrupt does that.\n")
    assert moved.stdout == "ours\n"
    assert process.stdout.readline() == b"cancelled Once upon \n"
    (listed,) = commands(("threads", "branches", *on))
    assert [line.split("\t")[4] for line in listed.stdout.splitlines()] == ["*", ""]


def test_a_turn_that_another_program_rolls_back(telling, kept, tmp_path):
    async def roll_back():
        store = SQLiteStore(tmp_path / "data" / "holdfast" / "threads.db")
        agent = ScriptedChatClient("Ahoy!").create_agent(thread_store=store)
        await agent.run("Instead.", thread=agent.get_thread("ours"), on_conflict="rollback")
        branches = await AgentThread(store, "ours", intent="existing").branches()
        store.close()
        return branches

    branches = asyncio.run(roll_back())
    told = telling.wait_for_prompt()
    assert "This answer was taken back from elsewhere. What you saw is kept on a branch: /branches" in told
    assert statuses(kept) == ["completed"]
    assert len(branches) == 2
