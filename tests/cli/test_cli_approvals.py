"""Calls that must be allowed: asked about at the prompt, never allowed unasked, found again by whoever looks."""

import asyncio
import json
import re

import pytest

from holdfast import OfflineChatClient, SQLiteStore, tool

PAY = """
from holdfast import tool

@tool(approval=True)
def pay(amount: int, to: str = "Ada") -> str:
    with open("paid.txt", "a") as file:
        file.write(f"{amount} to {to}\\n")
    return f"paid {amount}"

@tool(approval=True, approval_seconds=0.001)
def pay_soon(amount: int) -> str:
    return pay(amount)

@tool
def look() -> str:
    return "looked"
"""
PIPED = "pay amount 5\n"


@pytest.fixture(autouse=True)
def _tools(tmp_path):
    (tmp_path / "till.py").write_text(PAY)


@pytest.fixture
def paid(tmp_path):
    """What was paid so far."""

    def read():
        file = tmp_path / "paid.txt"
        return file.read_text().splitlines() if file.exists() else []

    return read


@pytest.fixture
def chat(terminal):
    def begin(*arguments, tools="till"):
        begun = terminal("chat", "--store", "chats.db", *(("--tools", tools) if tools else ()), *arguments)
        return begun

    return begin


@pytest.fixture
def threads(holdfast):
    def run(*arguments):
        done = holdfast("threads", *arguments, "--store", "chats.db")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


QUESTION = r"Allow it\? y\(es\), n\(o\), n and why, l\(ater\): \Z"


def test_yes_makes_the_call_and_no_tells_why_not(chat, paid, threads):
    begun = chat("--name", "Till")
    begun.wait_for_prompt()
    begun.line("pay amount 5, look and pay amount 7")
    asked = begun.wait_for(QUESTION)
    assert 'Till wants to call pay, which must be allowed:\n    {"amount":5}\n' in asked
    assert "look gave" not in asked  # results are told in the order of the calls
    begun.line("perhaps")
    begun.wait_for("l leaves it waiting.")
    begun.wait_for(QUESTION)
    assert paid() == []
    begun.line("y")
    asked = begun.wait_for(QUESTION)
    assert re.search(r"  pay gave: paid 5 \(.*\)\n  look gave: looked \(", asked)
    assert '    {"amount":7}\n' in asked
    assert paid() == ["5 to Ada"]
    begun.line("n: too much")
    begun.wait_for("pay failed: This call was not allowed, and not made. too much")
    begun.wait_for("pay did not work")
    begun.wait_for_prompt()
    begun.line("/approvals")
    begun.wait_for("No call waits to be allowed on this thread")
    begun.line("/quit")
    assert begun.end() == 0
    assert paid() == ["5 to Ada"]
    shown = threads("show", threads("list").split("\t")[0])
    assert re.search(r"^tool: \[result of pay: paid 5\] \(allowed by \S+\)$", shown, re.MULTILINE)
    assert re.search(r"^tool: \[error of pay: .*\] \(forbidden by \S+: too much\)$", shown, re.MULTILINE)
    assert "tool: [result of look: looked]\n" in shown


def test_later_is_another_day(chat, paid):
    first = chat()
    first.wait_for_prompt()
    first.line("pay amount 5 to Bo and pay amount 6")
    first.wait_for(QUESTION)
    first.line("l")
    first.wait_for(r'"amount":6\}\n')
    first.wait_for(QUESTION)
    first.wait_until_it_waits()
    first.interrupt()
    first.wait_for("It waits, here and for other programs. /approvals asks again; a message gives it up.")
    first.wait_for_prompt()
    first.line("/again")
    first.wait_for("/approvals asks about it, /stop\ngives it up.")
    first.wait_for_prompt()
    first.line("/resume")
    first.wait_for("/approvals asks about it")
    first.wait_for_prompt()
    first.line("/quit")
    assert first.end() == 0
    assert paid() == []

    second = chat("--continue")
    second.wait_for("waits: somebody must allow what it calls")
    second.wait_for(r'"to":"Bo"\}\n')
    second.wait_for(QUESTION)
    second.line("yes")
    second.wait_for(r'"amount":6\}\n')
    second.wait_for(QUESTION)
    second.type("\x04")
    second.wait_for("It waits")
    second.wait_for_prompt()
    assert paid() == ["5 to Bo"]
    second.line("/approvals")
    second.wait_for(QUESTION)
    second.line("n")
    second.wait_for("pay says: “paid 5”\npay did not work:")
    second.wait_for_prompt()
    second.line("/quit")
    assert second.end() == 0
    assert paid() == ["5 to Bo"]


def test_a_message_or_stop_gives_it_up(chat, paid, threads):
    begun = chat()
    begun.wait_for_prompt()
    for way in ("Never mind.", "/stop"):
        begun.line("pay amount 5")
        begun.wait_for(QUESTION)
        begun.line("l")
        begun.wait_for_prompt()
        begun.line(way)
        begun.wait_for("I heard" if way != "/stop" else "Stopped. What had come of the answer is kept.")
        begun.wait_for_prompt()
        begun.line("/approvals")
        begun.wait_for("No call waits")
        begun.wait_for_prompt()
    begun.line("/quit")
    assert begun.end() == 0
    assert paid() == []
    assert threads("list", "--waiting") == ""


def test_what_was_typed_before_the_question_is_no_answer(chat, paid):
    begun = chat()
    begun.wait_for_prompt()
    begun.type("pay amount 5\ry\r")
    begun.wait_for(QUESTION)
    begun.wait_until_it_waits()
    begun.line("l")
    begun.wait_for("It waits")
    begun.wait_for_prompt()
    begun.line("/quit")
    assert begun.end() == 0
    assert paid() == []


def test_it_may_be_too_late(chat, paid):
    begun = chat()
    begun.wait_for_prompt()
    begun.line("pay_soon amount 5")
    begun.wait_for(r"A call of pay_soon, which must be allowed until \d{4}-\d\d-\d\d [\d:]{8} UTC:")
    begun.wait_for(QUESTION)
    begun.line("y")
    begun.wait_for("It is too late to allow it.")
    begun.wait_for(QUESTION)
    begun.line("n")
    begun.wait_for("pay_soon did not work")
    begun.wait_for_prompt()
    begun.line("/quit")
    assert begun.end() == 0
    assert paid() == []


def test_a_chat_without_the_tool_asks_nobody(chat, holdfast, paid):
    holdfast("chat", "--store", "chats.db", "--tools", "till", said=PIPED)
    begun = chat("--continue", tools=None)
    begun.wait_for("This chat has no tool 'pay': start it with --tools to answer.")
    begun.wait_for_prompt()
    begun.line("/quit")
    assert begun.end() == 0
    assert paid() == []


def test_in_a_pipe_nothing_is_allowed(holdfast, paid, threads):
    done = holdfast("chat", "--store", "chats.db", "--tools", "till", said="y\npay amount 5\ny\nyes\n")
    assert done.returncode == 1  # the lines after it were not sent
    assert 'pay {"amount":5} waits to be allowed.' in done.stderr
    assert "This message was not sent" in done.stderr
    assert paid() == []
    thread = threads("list", "--waiting").split("\t")[0]
    assert f"holdfast chat --thread {thread}, with the same --store and --tools, asks" in done.stderr
    assert holdfast("chat", "--store", "chats.db", "--thread", "t", "--tools", "till", said=PIPED).returncode == 0

    again = holdfast("chat", "--store", "chats.db", "--continue", said="Hello?\n")
    assert (again.returncode, again.stdout) == (1, "")
    assert "waits to be allowed" in again.stderr
    assert threads("list", "--waiting", "--json").count('"waiting": true') == 2
    threads("stop", "t")
    assert len(threads("list", "--waiting").splitlines()) == 1
    assert len(threads("list").splitlines()) == 2
    assert paid() == []


def test_who_waits_is_found(holdfast, threads, terminal):
    holdfast("chat", "--store", "chats.db", "--thread", "other", said="Hello.\n")
    assert threads("list", "--waiting") == ""
    holdfast("chat", "--store", "chats.db", "--thread", "t", "--tools", "till", "--name", "Till", said=PIPED)
    shown = threads("show", "t")
    assert "waits: somebody must allow what it calls" in shown
    assert shown.endswith('Till wants to call pay, which must be allowed:\n    {"amount":5}\n')
    state = json.loads(threads("show", "t", "--json"))
    (request,) = state["approvals"]
    assert (state["waiting"], request["tool"], request["arguments"]) == (True, "pay", '{"amount":5}')
    assert (request["agent"], request["expires"]) == ("Till", None)
    listed = terminal("threads", "list", "--waiting", "--store", "chats.db")
    listed.wait_for("a call waits · no turns")
    assert listed.end() == 0
    doctor = holdfast("doctor", "--no-network", "--store", "chats.db").stdout
    assert "note     approvals 1 turn waits for a call to be allowed" in doctor
    assert "none is open" in doctor


@tool(approval=True, approval_seconds=3600)
def send(text: str) -> str:
    """Send a text."""
    return "sent"


async def _waits(path, arguments):
    store = SQLiteStore(path)
    agent = OfflineChatClient().create_agent(tools=[send], thread_store=store)
    await agent.run(f"send {arguments}", thread=agent.get_thread("t", create=True))
    store.close()


def test_what_is_asked_is_shown_whole_and_cannot_pass_for_the_program(holdfast, tmp_path):
    text = "x" * 3000 + "\u202egnidda\x1b[2J"
    arguments = json.dumps({"text": text}, indent=0).replace(": ", ":\n\n")
    asyncio.run(_waits(tmp_path / "chats.db", arguments))
    shown = holdfast("threads", "show", "t", "--store", "chats.db").stdout
    assert re.search(r"\nA call of send, which must be allowed until \d{4}-\d\d-\d\d [\d:]{8} UTC:\n", shown)
    lines = shown.split("UTC:\n")[1].splitlines()
    assert all(line.startswith("    ") for line in lines)
    assert json.loads("\n".join(lines)) == {"text": text}
    assert "\x1b" not in shown
    assert "\u202e" not in shown
