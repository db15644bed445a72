"""`holdfast chat` without a terminal: stdout carries answers and nothing else."""

import json
import os
import signal
import subprocess
import sys

import pytest

from holdfast.cli.screen import Screen
from holdfast.testing.openai_chat import CutStream, Fail, FailInStream, Hang, Refuse, Say


def test_the_example_of_the_readme(holdfast, kept):
    done = holdfast(
        "chat", "--name", "Joker", said="Tell me a joke about a pirate.\nNow add some emojis to the joke.\n"
    )
    assert done.returncode == 0
    assert "pirate" in done.stdout
    assert "🏴" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "›" not in done.stdout
    assert "no language model" not in done.stdout
    banner = done.stderr.splitlines()
    assert [line[:9].strip() for line in banner] == ["answers", "", "name", "thread", "kept in"]
    assert "no language model" in banner[0]
    assert "OPENAI_API_KEY" in banner[1]
    assert [turn.status for turn in kept()] == ["completed", "completed"]


def test_each_answer_ends_its_line(holdfast, service, there):
    service.script("one", "two\n", Refuse("I will not."), "")
    done = holdfast("chat", *there, said="1\n\n  \n2\n3\n4")
    assert done.stdout == "one\ntwo\nI will not.\n"
    assert "(The answer was empty.)" in done.stderr
    assert done.returncode == 0
    assert len(service.requests) == 4  # blank lines are nobody's turn
    assert service.refused == []


def test_who_answers_is_told_beside(holdfast, service, there, kept):
    done = holdfast("chat", *there, "--name", "Joker", "--instructions", "You are good at telling jokes.", said="hi\n")
    assert done.stdout == "You said: hi (message 2)\n"
    assert f"stand-in (openai at {service.base_url.removesuffix('/v1')})" in done.stderr
    assert "Joker" in done.stderr
    assert "data/holdfast/threads.db" in done.stderr
    assert service.messages()[0] == {"role": "system", "content": "You are good at telling jokes."}
    assert kept()[0].output[0].author_name == "Joker"


def test_the_environment_says_who_answers(home, holdfast, service):
    home.update(OPENAI_BASE_URL=service.base_url, OPENAI_CHAT_MODEL_ID="theirs", OPENAI_API_KEY="sk-secret-123456789")
    done = holdfast("chat", said="hi\n")
    assert done.stdout == "You said: hi (message 1)\n"
    assert "theirs" in done.stderr
    assert "secret" not in done.stderr
    assert service.last.json["model"] == "theirs"


def test_no_model_is_told_before_anything_is_typed(home, holdfast):
    home["OPENAI_API_KEY"] = "sk-secret-123456789"
    done = holdfast("chat", said="hi\n")
    assert done.returncode == 1
    assert "OPENAI_CHAT_MODEL_ID" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_line_that_ends_with_a_backslash_goes_on(holdfast, service, there):
    holdfast("chat", *there, said="one\\\ntwo\nthree\\\n")
    assert [message["content"] for message in service.messages()][::2] == ["one\ntwo", "three"]


def test_bytes_that_are_no_utf8(holdfast, service, there):
    assert holdfast("chat", *there, said=b"caf\xe9\r\n").returncode == 0
    assert service.messages()[0]["content"] == "caf\ufffd"


def test_nothing_said_leaves_nothing(holdfast):
    done = holdfast("chat")
    assert (done.returncode, done.stdout) == (0, "")
    assert holdfast("threads", "list", "--json").stdout in ("", "[]\n")


# --- which thread ----------------------------------------------------------------------------------------------


def test_continue_goes_on_with_the_last_one(holdfast, there):
    holdfast("chat", *there, said="one\n")
    holdfast("chat", *there, "--thread", "another one", said="two\nthree\n")
    done = holdfast("chat", *there, "--continue", said="four\n")
    assert done.stdout == "You said: four (message 5)\n"
    assert "another one (2 turns)" in done.stderr


def test_continue_without_any(holdfast, tmp_path):
    done = holdfast("chat", "--continue", said="Hello.\n")
    assert done.returncode == 1
    assert done.stderr == (
        f"holdfast: There are no threads yet: {tmp_path}/data/holdfast does not exist. Begin one with: holdfast chat\n"
    )
    assert not (tmp_path / "data").exists()


def test_a_store_is_a_path_or_an_url(holdfast, there, tmp_path):
    holdfast("chat", *there, "--store", "chats.db", "--thread", "a", said="one\n")
    done = holdfast("chat", *there, "--store", "sqlite:///chats.db", "--thread", "a", said="two\n")
    assert done.stdout == "You said: two (message 3)\n"
    assert (tmp_path / "chats.db").exists()
    assert not (tmp_path / "data").exists()
    gone = holdfast("chat", *there, "--store", "memory:", said="Hello.\n")
    assert gone.returncode == 0
    assert "gone when you leave" in gone.stderr


def test_a_store_that_is_none(holdfast, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear Ada, this is no database. " * 50)
    done = holdfast("chat", "--store", "letter.txt", said="Hello.\n")
    assert done.returncode == 1
    assert "letter.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "letter.txt").read_text().startswith("Dear Ada")


# --- what goes wrong -------------------------------------------------------------------------------------------


def test_the_first_turn_that_fails_ends_it(holdfast, service, there, kept):
    service.script("fine", Fail(400, message="No such thing."), "never asked for")
    done = holdfast("chat", *there, said="1\n2\n3\n")
    assert done.returncode == 1
    assert done.stdout == "fine\n"
    assert "No such thing." in done.stderr
    assert "so it does not count" in done.stderr
    assert service.unused == 1
    assert [turn.status for turn in kept()] == ["completed", "failed"]


def test_what_came_before_the_failure_is_kept(holdfast, service, there, kept):
    service.script(FailInStream(after=3, answer=Say(pieces=["Once ", "upon ", "a ", "time"])))
    done = holdfast("chat", *there, said="1\n")
    assert done.returncode == 1
    assert done.stdout == "Once upon \n"
    assert "what had come of the answer is kept" in done.stderr
    assert kept()[0].output[0].text == "Once upon "


def test_a_cut_answer_is_no_answer(holdfast, service, there):
    service.script(CutStream(after=2, answer=Say(pieces=["Once ", "upon "])))
    done = holdfast("chat", *there, said="1\n")
    assert (done.returncode, done.stdout) == (1, "Once \n")
    assert "cut off" in done.stderr


def test_an_answer_that_met_a_limit_says_so(holdfast, service, there):
    service.script(Say("Ahoy", finish_reason="length"))
    done = holdfast("chat", *there, said="1\n")
    assert done.stdout == "Ahoy\n"
    assert "limit of tokens" in done.stderr


def test_commands_show_nothing_on_stdout(holdfast, service, there):
    done = holdfast("chat", *there, said="/history\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nothing was said yet." in done.stderr
    done = holdfast("chat", *there, said="hi\n/title Greetings\n//etc is a folder\n/etc/passwd\nnever\n")
    assert done.returncode == 1
    assert done.stdout == "You said: hi (message 1)\nYou said: /etc is a folder (message 3)\n"
    assert "There is no /etc/passwd. /help lists what there is" in done.stderr
    assert "\tGreetings\n" in holdfast("threads", "list").stdout


HOSTILE = "\x1b]0;owned\x07\x1b[2Jred\x9b31m\u202eback\x08\x7f\r!"


def test_a_service_gives_no_orders_to_the_terminal(holdfast, service, there):
    # In pieces, so that no sequence comes whole.
    service.script(Say(pieces=list(HOSTILE)), Fail(400, message=HOSTILE, code=HOSTILE))
    done = holdfast("chat", *there, said="1\n2\n")
    assert done.stdout == "␛]0;owned␇␛[2Jred\ufffd31mback␈␡!\n"
    assert "red" in done.stderr
    listed = holdfast("threads", "list")
    of_thread = holdfast("threads", "show", listed.stdout.split("\t")[0])
    as_json = holdfast("threads", "show", listed.stdout.split("\t")[0], "--json")
    for written in (done.stdout, done.stderr, of_thread.stdout, as_json.stdout):
        assert not {"\x1b", "\x9b", "\x07", "\x08", "\x7f", "\r", "\u202e"} & set(written)
    (said,) = json.loads(as_json.stdout)["turns"][0]["output"]
    assert said["contents"][0]["text"] == HOSTILE  # the log keeps what was said


def test_a_character_that_comes_in_two_halves(capsys):
    screen = Screen({})
    for piece in ("Ahoy ", "\ud83c", "\udff4", "\ud83c", "!\ud83c"):
        screen.piece(piece)
    screen.end_line()
    assert capsys.readouterr().out == "Ahoy 🏴\ufffd!\ufffd\n"


# --- how it is ended -------------------------------------------------------------------------------------------


@pytest.fixture
def started(home, there, tmp_path):
    """The program, asking a service that says two words and then nothing more."""
    program = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "chat", *there],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=home,
        cwd=tmp_path,
    )
    yield program
    if program.poll() is None:
        program.kill()
    program.communicate()


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(kept, service, started):
    service.script(Hang(after=3, seconds=None, answer=Say(pieces=["Once ", "upon ", "a ", "time"])))
    started.stdin.write(b"Tell me.\nnever sent\n")
    started.stdin.flush()
    assert os.read(started.stdout.fileno(), 100).startswith(b"Once ")
    started.send_signal(signal.SIGINT)
    _, complaints = started.communicate(timeout=20)
    assert started.returncode == 130
    assert b"Traceback" not in complaints
    (turn,) = kept()
    assert turn.status == "cancelled"
    assert turn.output[0].text.startswith("Once ")
    assert len(service.requests) == 1


def test_a_reader_that_goes_away_ends_it_quietly(kept, service, started):
    service.script(Say(pieces=["Once ", *["upon "] * 50], delay=0.05))
    started.stdin.write(b"Tell me.\n")
    started.stdin.flush()
    assert os.read(started.stdout.fileno(), 100).startswith(b"Once ")
    started.stdout.close()
    complaints = started.stderr.read()
    assert started.wait(20) == 141
    assert b"kept in" in complaints  # the banner
    assert complaints.count(b"\n") == 3
    assert [turn.status for turn in kept()] == ["cancelled"]
