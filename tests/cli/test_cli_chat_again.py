"""`/again`, `/branches`, `/branch`: another answer, and the way back to the earlier one."""

from holdfast.testing.openai_chat import Fail, Hang, Say

ONCE = Hang(after=3, seconds=None, answer=Say(pieces=["Once ", "upon ", "a ", "time"]))


class Typist:
    """Somebody at a chat who types a line and reads what comes up to the next prompt."""

    def __init__(self, chat):
        self.chat = chat
        self.banner = chat.wait_for_prompt()

    def __call__(self, line):
        self.begin(line)
        return self.chat.wait_for_prompt()

    def begin(self, line):
        self.chat.line(line)
        self.chat.wait_for("\n")


def said(service, request=-1):
    return [message["content"] for message in service.messages(request)]


def test_another_answer_and_back_to_the_earlier_one(terminal, service, there):
    service.script("one", "two", "two again", "three")
    typed = Typist(terminal("chat", *there, NO_COLOR="1"))
    typed("a")
    typed("b")
    told = typed("/again")
    assert told.startswith("two again\n")
    assert "The earlier answer stays on a branch of its own: /branches" in told
    assert said(service, 2) == said(service, 1) == ["a", "one", "b"]
    assert [line[:5] for line in typed("/branches").splitlines()[:4:2]] == ["  1 b", "* 2 b"]
    assert typed("/branch 1").startswith("You are after turn 2 of that branch now.\n\n› b\ntwo\n")
    typed("c")
    assert said(service) == ["a", "one", "b", "two", "c"]


def test_branches_are_listed_with_what_was_said_last(terminal, service, there):
    service.script("one", "two", "Ahoy! " * 50, ONCE)
    chat = terminal("chat", *there, NO_COLOR="1", columns=60)
    typed = Typist(chat)
    assert "Nothing was said yet." in typed("/branches")
    typed("a")
    typed("b")
    typed("/rewind")
    facts = "at turn 1 of 2 · just now"
    assert typed("/branches").splitlines()[:2] == [
        "* 1 b".ljust(60 - len(facts)) + facts,
        "    two",
    ]
    typed("Say ahoy. " * 20)
    typed("/rewind 2")
    typed.begin("Tell me.")
    chat.wait_for("Once upon ")
    chat.interrupt()
    chat.wait_for_prompt()
    listed = typed("/branches").splitlines()[:6]
    assert [line[:3] for line in listed] == ["  1", "   ", "  2", "   ", "* 3", "   "]
    assert [line[4:16].rstrip() for line in listed] == [
        "b",
        "two",
        "Say ahoy. Sa",
        "Ahoy! Ahoy!",
        "Tell me.",
        "Once upon",
    ]
    assert [line.endswith("2 turns · just now") for line in listed[::2]] == [True, True, False]
    assert max(map(len, listed)) <= 60


def test_another_answer_that_fails_leaves_the_earlier_one(terminal, service, there):
    service.script("one", Fail(400, message="No."), Hang(after=None, seconds=None), ONCE, "next")
    chat = terminal("chat", *there)
    typed = Typist(chat)
    typed("a")
    assert "The earlier answer stands." in typed("/again")
    typed.begin("/again")
    service.block_for_requests(3)
    chat.interrupt()
    told = chat.wait_for_prompt()
    assert "Stopped before an answer came.\n" in told
    assert "The earlier answer stands." in told
    typed.begin("/again")
    chat.wait_for("Once upon ")
    chat.interrupt()
    told = chat.wait_for_prompt()
    assert "Stopped. What you saw is kept." in told
    assert "The earlier answer stays on a branch" in told
    typed("b")
    assert said(service) == ["a", "Once upon ", "b"]


def test_what_cannot_be_answered_again_or_gone_to(terminal, service, there):
    typed = Typist(terminal("chat", *there, columns=200))
    for line in ("/again", "/branch 1", "/resume"):
        assert "Nothing was said on this thread yet" in typed(line)
    assert "/again takes nothing" in typed("/again please")
    typed("a")
    assert "/branch takes the number of a branch; /branches lists them." in typed("/branch")
    for number in ("0", "2", "9" * 50):
        assert f"has 1 branch, and so no branch {number[:20]}; /branches lists them." in typed(f"/branch {number}")
    assert "has no turn 'turn_nowhere'" in typed("/branch turn_nowhere")
    typed("/rewind")
    assert "There is no message here that could be answered again." in typed("/again")
    assert "You are after turn 1 of that branch now." in typed("/branch 1")


def test_a_long_list_is_cut_at_its_old_end(holdfast, there):
    done = holdfast("chat", *there, said="a\n" + "/again\n" * 11 + "/branches\n/branch 1\nb\n")
    assert done.returncode == 0
    assert "\n*12 a" in done.stderr
    assert "\n  3 a" in done.stderr
    assert "\n  2 a" not in done.stderr
    assert "Those before number 3 are there too: /branch 2" in done.stderr


def test_through_a_pipe_only_answers_go_to_stdout(holdfast, service, there):
    service.script("one", "two", "three")
    done = holdfast("chat", *there, said="a\n/again\n/branches\n/branch 1\nb\n")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\nthree\n")
    assert "The earlier answer stays on a branch of its own" in done.stderr
    assert said(service) == ["a", "one", "b"]
    service.script(Fail(400, message="No."))
    failed = holdfast("chat", *there, "--continue", said="/again\nnever sent\n")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert len(service.requests) == 4
