"""A chat that is killed in the middle of an answer goes on, and knows all that was said in its finished turns."""

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from holdfast import SQLiteStore
from holdfast.testing.openai_chat import Hang, Say

ONCE = Hang(after=3, seconds=None, answer=Say(pieces=["Once ", "upon ", "a ", "time"]))


def test_killed_in_the_middle_of_an_answer(home, holdfast, tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "chat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=home,
        cwd=tmp_path,
        bufsize=0,
    )
    program.stdin.write(b"My name is Ada.\n")
    assert b"Ada" in program.stdout.readline()
    program.stdin.write(b"Tell me a joke about a pirate.\n")
    assert program.stdout.read(3)
    program.kill()
    assert program.wait(20) == -signal.SIGKILL
    program.communicate()

    thread, turns, _, left_open, _ = holdfast("threads", "list").stdout.split("\t")
    assert turns == "1"
    assert left_open.startswith("turn_")
    assert "is open: the program that was answering ended in the middle of it" in (
        holdfast("threads", "show", thread).stdout
    )

    done = holdfast("chat", "--continue", said="What is my name?\n")
    assert done.returncode == 0
    assert "Ada" in done.stdout
    shown = holdfast("threads", "show", thread).stdout
    assert "3 turns" in shown
    assert "you: Tell me a joke about a pirate.\n(interrupted" in shown
    assert "is open" not in shown


# --- going on with it ------------------------------------------------------------------------------------------


async def _written(path):
    """The open turn of the thread `ours`, once something of its answer is written down."""
    store = SQLiteStore(path)
    try:
        info = await store.get("ours")
        ends = time.monotonic() + 20
        while not (await store.progress("ours", info.busy)).records:
            assert time.monotonic() < ends, "nothing of the answer was written down"
            await asyncio.sleep(0.05)
        return info.busy
    finally:
        store.close()


@pytest.fixture
def cut_off(terminal, service, there, tmp_path):
    """The id of a turn whose chat, on the thread `ours`, was killed after it had said "Once upon "."""
    service.script(ONCE)
    chat = terminal("chat", *there, "--thread", "ours")
    chat.wait_for_prompt()
    chat.line("Tell me.")
    chat.wait_for("Once upon ")
    turn_id = asyncio.run(_written(tmp_path / "data" / "holdfast" / "threads.db"))
    chat.process.kill()
    chat.process.wait(20)
    return turn_id


@pytest.mark.parametrize("which", [("--continue",), ("--thread", "ours")])
def test_an_answer_that_was_cut_off_is_gone_on_with(terminal, service, there, kept, cut_off, which):
    service.script(Say(pieces=["Once ", "upon ", "a ", "time."]))
    chat = terminal("chat", *there, *which, columns=200, NO_COLOR="1")
    banner = chat.wait_for_prompt()
    assert "\n› Tell me.\nOnce upon\n(turn " in banner
    assert "the program that was answering ended in the middle of it" in banner
    assert "/resume goes on with it. Your next message closes it as interrupted." in banner
    chat.line("/again")
    assert "The last answer has not ended. /resume goes on with it." in chat.wait_for_prompt()
    chat.line("/resume")
    chat.wait_for("\n")
    assert chat.wait_for_prompt() == "Once upon a time.\n\n› "
    assert [message["content"] for message in service.messages()] == ["Tell me."]
    assert [(turn.id, turn.status) for turn in kept()] == [(cut_off, "completed")]
    chat.line("/resume")
    assert "there is nothing to go on with" in chat.wait_for_prompt()


def test_the_next_message_closes_it(terminal, service, there, kept, cut_off):
    chat = terminal("chat", *there, "--continue")
    chat.wait_for_prompt()
    chat.line("Go on.")
    chat.wait_for("You said: Go on.")
    chat.wait_for_prompt()
    assert [message["content"] for message in service.messages()] == ["Tell me.", "Once upon ", "Go on."]
    assert [turn.status for turn in kept()] == ["interrupted", "completed"]


def test_going_on_is_stopped_like_any_answer(terminal, service, there, kept, cut_off):
    service.script(ONCE)
    chat = terminal("chat", *there, "--continue")
    chat.wait_for_prompt()
    chat.line("/resume")
    chat.wait_for("\nOnce upon ")
    chat.interrupt()
    chat.wait_for("Stopped. What you saw is kept.")
    chat.wait_for_prompt()
    assert [(turn.id, turn.status) for turn in kept()] == [(cut_off, "cancelled")]


def test_a_silence_while_going_on_is_the_services(terminal, service, there, cut_off):
    """It is the same turn, and so no other process that has the thread."""
    service.script(Hang(after=None, seconds=1.6, answer="Ahoy!"))
    chat = terminal("chat", *there, "--continue")
    chat.wait_for_prompt()
    chat.line("/resume")
    assert "Waiting for another" not in chat.wait_for("Ahoy!")


def test_a_rewind_takes_back_what_was_cut_off(terminal, there, cut_off):
    chat = terminal("chat", *there, "--continue")
    chat.wait_for_prompt()
    chat.line("/rewind")
    assert "Gone back by 1 turn; no turns before this." in chat.wait_for_prompt()


def test_going_on_through_a_pipe(holdfast, service, there, kept, cut_off):
    service.script("Once upon a time.", "Ahoy!")
    done = holdfast("chat", *there, "--continue", said="/resume\nHello.\n")
    assert (done.returncode, done.stdout) == (0, "Once upon a time.\nAhoy!\n")
    assert kept()[0].id == cut_off
    again = holdfast("chat", *there, "--continue", said="/resume\nnever sent\n")
    assert (again.returncode, again.stdout) == (1, "")
    assert "nothing to go on with" in again.stderr
