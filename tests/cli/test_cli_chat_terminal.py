"""`holdfast chat` at a terminal: what a person sees, and what the keys do."""

import signal
import time

import pytest

from holdfast.testing.openai_chat import Fail, Hang, Say

ONCE = Hang(after=3, seconds=None, answer=Say(pieces=["Once ", "upon ", "a ", "time"]))


def statuses(kept):
    return [turn.status for turn in kept()]


def test_a_first_conversation(terminal):
    chat = terminal("chat")
    banner = chat.wait_for_prompt()
    assert "the offline partner: built-in rules, no language model" in banner
    assert "OPENAI_API_KEY and OPENAI_CHAT_MODEL_ID" in banner
    assert "(new)" in banner
    assert "holdfast/threads.db" in banner
    assert "Ctrl-C stops an answer, Ctrl-D or /quit leaves" in banner
    chat.line("My name is Ada.")
    chat.wait_for("Ada! ")
    chat.wait_for_prompt()
    chat.type("\x04")
    assert chat.end() == 0
    assert "Kept. Go on with: holdfast chat --continue" in chat.seen

    again = terminal("chat", "--continue")
    banner = again.wait_for_prompt()
    assert "(1 turn)" in banner
    assert "› My name is Ada.\n" in banner
    again.type("\x1b[A")  # the arrow finds what was said before
    again.wait_for("My name is Ada.")
    again.type("\x15")
    again.line("What is my name?")
    again.wait_for("Your name is Ada")
    again.wait_for_prompt()
    again.line("/quit")
    assert again.end() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, kept, service, there):
    service.script(ONCE, "Ahoy!")
    chat = terminal("chat", *there)
    chat.wait_for_prompt()
    chat.line("Tell me.")
    chat.wait_for("Once upon ")
    chat.interrupt()
    chat.wait_for("Stopped. What you saw is kept.")
    chat.wait_for_prompt()
    chat.line("Go on.")
    chat.wait_for("Ahoy!")
    chat.wait_for_prompt()
    assert [message["content"] for message in service.messages()] == ["Tell me.", "Once upon ", "Go on."]
    chat.type("\x04")
    assert chat.end() == 0
    assert statuses(kept) == ["cancelled", "completed"]
    again = terminal("chat", "--continue", *there)
    again.wait_for("Once upon ?\n")
    again.wait_for_prompt()


def test_ctrl_c_offline(terminal, kept):
    """No service to wait for: the words themselves take their time."""
    chat = terminal("chat")
    chat.wait_for_prompt()
    chat.line("What can you do?")
    chat.wait_for("\n\\S+ ")
    chat.interrupt()
    chat.wait_for("Stopped. What you saw is kept.")
    chat.wait_for_prompt()
    chat.line("/quit")
    assert chat.end() == 0
    assert statuses(kept) == ["cancelled"]


def test_ctrl_c_before_a_word_came(terminal, kept, service, there):
    service.script(Hang(after=None, seconds=None))
    chat = terminal("chat", *there)
    chat.wait_for_prompt()
    chat.line("Tell me.")
    service.block_for_requests(1)
    chat.interrupt()
    chat.wait_for("Stopped before an answer came. Your message is kept.")
    chat.wait_for_prompt()
    chat.type("\x04")
    assert chat.end() == 0
    recap = terminal("chat", "--continue", *there)
    recap.wait_for("stopped before an answer came")


def test_ctrl_c_at_the_prompt(terminal):
    chat = terminal("chat")

    def interrupt():
        chat.wait_until_it_waits()
        chat.interrupt()

    chat.wait_for_prompt()
    chat.type("half a line")
    chat.wait_for("half a line")
    interrupt()
    assert "leaves" not in chat.wait_for_prompt()  # it was the line that was given up
    interrupt()
    chat.wait_for("Ctrl-D or /quit leaves; so does Ctrl-C once more.")
    chat.wait_for_prompt()
    chat.line("/help")
    chat.wait_for_prompt()
    interrupt()
    chat.wait_for("once more")  # something was said in between: it counts anew
    chat.wait_for_prompt()
    interrupt()
    assert chat.end() == 130
    assert "Traceback" not in chat.seen


def test_an_error_of_a_turn_is_told_and_the_chat_goes_on(terminal, service, there):
    service.script(Fail(400, message="No such \x1b[2Jthing."), "Fine.")
    chat = terminal("chat", *there, NO_COLOR="1")
    chat.wait_for_prompt()
    chat.line("Hello.")
    told = chat.wait_for_prompt()
    assert "No such" in told
    assert "\x1b" not in told
    assert "turn_" in told
    assert "You can say it again." in told
    assert "Traceback" not in told
    chat.line("Hello.")
    chat.wait_for("Fine.")
    assert [message["content"] for message in service.messages()] == ["Hello."]


def test_a_dumb_terminal(terminal):
    chat = terminal("chat", TERM="dumb")
    chat.wait_for_prompt()
    chat.line("/quit")
    assert chat.end() == 0
    assert "\x1b" not in chat.seen
    assert "›" in chat.seen


def test_lines_that_belong_together(terminal, service, there):
    chat = terminal("chat", *there)
    chat.wait_for_prompt()
    chat.line("one \\")
    chat.wait_for("… ")
    chat.line("two")
    chat.wait_for("You said")
    chat.wait_for_prompt()
    chat.type("\x1b[200~three\nfour\x1b[201~")
    chat.wait_for("four")
    chat.line("")
    chat.wait_for("You said")
    chat.wait_for_prompt()
    assert [message["content"] for message in service.messages()][::2] == ["one \ntwo", "three\nfour"]


def test_another_process_on_the_thread_is_waited_for(terminal, kept, service, there):
    service.script(ONCE, "Ahoy!")
    first = terminal("chat", *there, "--thread", "ours")
    first.wait_for_prompt()
    first.line("Tell me.")
    first.wait_for("Once upon ")
    second = terminal("chat", *there, "--thread", "ours")
    assert "is open: another program" in second.wait_for_prompt()
    second.line("Too early.")
    second.wait_for("Waiting for another process that is using this thread")
    second.interrupt()
    second.wait_for("Stopped. Nothing was sent.")
    second.wait_for_prompt()
    second.line("And me.")
    second.wait_for("Waiting for another process that is using this thread")
    first.interrupt()
    first.wait_for_prompt()
    second.wait_for("Ahoy!")
    second.wait_for_prompt()
    assert statuses(kept) == ["cancelled", "completed"]
    assert [message["content"] for message in service.messages()] == ["Tell me.", "Once upon ", "And me."]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_is_closed_loses_nothing(terminal, kept, service, there, number):
    service.script(ONCE)
    chat = terminal("chat", *there)
    chat.wait_for_prompt()
    chat.line("Tell me.")
    chat.wait_for("Once upon ")
    chat.process.send_signal(number)
    assert chat.end() == 128 + number
    assert statuses(kept) == ["cancelled"]


def test_a_signal_at_the_prompt(terminal):
    chat = terminal("chat")
    chat.wait_for_prompt()
    chat.wait_until_it_waits()
    chat.process.send_signal(signal.SIGTERM)
    assert chat.end() == 128 + signal.SIGTERM
    assert "Traceback" not in chat.seen


def test_answers_may_go_elsewhere(terminal, service, there, tmp_path):
    """`holdfast chat | tee log`: a person types, but stdout is no terminal."""
    service.script("Ahoy!")
    chat = terminal("chat", *there, into=tmp_path / "log")
    assert "stand-in" in chat.wait_for_prompt()
    chat.line("Hello.")
    chat.wait_for_prompt()
    chat.type("\x04")
    assert chat.end() == 0
    assert (tmp_path / "log").read_text() == "Ahoy!\n"


# --- commands --------------------------------------------------------------------------------------------------


def test_commands(terminal, service, there):
    chat = terminal("chat", *there, NO_COLOR="1")
    chat.wait_for_prompt()

    def typed(line):
        chat.line(line)
        chat.wait_for("\n")
        return chat.wait_for_prompt()

    listed = typed("/help")
    for name in ("/new", "/threads", "/switch", "/fork", "/rewind", "/history", "/title", "/help", "/quit"):
        assert f"  {name}" in listed
    for name in ("/again", "/branches", "/branch N", "/resume", "/stop"):
        assert f"  {name} " in listed
    assert "There is no /nonsense. /help lists" in typed("/nonsense")
    assert "/quit takes nothing" in typed("/quit now")
    assert "Nothing was said on this thread yet" in typed("/fork")
    assert "Nothing was said on this thread yet" in typed("/title Greetings")
    typed("one")
    typed("two")
    assert "/rewind takes a number from 1 to 2; got '3'." in typed("/rewind 3")
    assert "Title: Greetings" in typed("/title Greetings")
    history = typed("/history")
    assert "turn 1 · " in history
    assert "you: one\nassistant: You said: one (message 1)\n" in history
    assert "turn 1 · " not in typed("/history 1")
    assert "The other stays as it is: /switch thread_" in typed("/fork 1")
    assert "You said: three (message 3)" in typed("three")
    listed = typed("/threads")
    assert "* 1 one" in listed
    assert "  2 Greetings" in listed
    assert "There is no thread '3' here" in typed("/switch 3")
    assert "You said: two (message 3)" in typed("/switch 2")
    rewound = typed("/rewind")
    assert "Gone back by 1 turn; 1 turn before this." in rewound
    assert "You said: one" in rewound
    assert "You said: four (message 3)" in typed("four")
    assert "A new thread: thread_" in typed("/new")
    assert "You said: five (message 1)" in typed("five")
    assert "You said: /six (message 3)" in typed("//six")
    chat.type("/hist\t")
    chat.wait_for("/history ")
    chat.line("")
    chat.wait_for_prompt()
    chat.line("/exit")
    assert chat.end() == 0
    assert "\x1b" not in chat.seen  # NO_COLOR
    assert service.refused == []


def test_a_silent_service_shows_a_sign_of_life(terminal, service, there):
    service.script(Hang(after=None, seconds=1.6, answer="Ahoy!"))
    chat = terminal("chat", *there)
    chat.wait_for_prompt()
    began = time.monotonic()
    chat.line("Hello.")
    chat.wait_for("…")
    assert time.monotonic() - began > 0.9
    assert "\x1b[KAhoy!" in chat.wait_for("Ahoy!")
