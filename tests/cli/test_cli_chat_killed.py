"""A chat that is killed in the middle of an answer goes on, and knows all that was said in its finished turns."""

import signal
import subprocess
import sys


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

    done = holdfast("chat", "--continue", said="What is my name?\n")
    assert done.returncode == 0
    assert "Ada" in done.stdout
    shown = holdfast("threads", "show", thread).stdout
    assert "3 turns" in shown
    assert "you: Tell me a joke about a pirate.\n(interrupted" in shown
    assert "is open" not in shown
