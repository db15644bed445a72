"""`holdfast chat --tools`: which functions are found, and what is seen of their calls."""

import re

import pytest

from holdfast import ToolCallContent, ToolCallUpdate, ToolResultUpdate, UsageUpdate
from holdfast.cli.calls import CallLines
from holdfast.cli.screen import Screen
from holdfast.conversation.updates import FinishUpdate, Usage
from holdfast.testing.openai_chat import CallTools

SHOP = '''
import time
from holdfast import ToolError, tool

def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"

@tool
def breaks() -> str:
    """Fails."""
    raise ToolError("Not\\x1b[31m\\ntoday.")

@tool(timeout=5)
def long_story() -> str:
    """A long story."""
    return "Once upon a time. " * 400

everything = [get_weather, breaks]
number = 3

class Shop:
    def look(self) -> str:
        """Look."""
        return "looked"

shop = Shop()
'''


@pytest.fixture(autouse=True)
def _files(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "in a folder").mkdir()
    (tmp_path / "in a folder" / "beside.py").write_text("WORD = 'beside'\n")
    (tmp_path / "in a folder" / "say.py").write_text(
        "from beside import WORD\n\n\ndef say() -> str:\n    return WORD\n"
    )
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "empty.py").write_text("")


def loaded(done):
    found = re.search(r"^tools +(.*)$", done.stderr, re.MULTILINE)
    return found[1].split(", ") if found else []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("shop:get_weather",), ["get_weather"]),
        (("shop:get_weather", "shop"), ["get_weather", "breaks", "long_story"]),
        (("shop:everything", "shop:breaks"), ["get_weather", "breaks"]),
        (("shop.py",), ["breaks", "long_story"]),
        (("./shop.py:get_weather", "shop:long_story"), ["get_weather", "long_story"]),
        (("shop:shop.look",), ["look"]),
        (("in a folder/say.py:say",), ["say"]),
        ((), []),
    ],
)
def test_what_is_named_is_found(holdfast, given, names):
    done = holdfast("chat", *(word for each in given for word in ("--tools", each)))
    assert (done.returncode, loaded(done)) == (0, names), done.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nowhere:f", "there is no module 'nowhere', neither here nor installed."),
        ("shop.inner:f", "there is no module 'shop.inner'"),
        ("nowhere.py:f", "there is no file nowhere.py."),
        ("shop:get_whether", "there is no 'get_whether' in shop. There is: get_weather, breaks, long_story"),
        ("shop:shop.leave", "there is no 'leave' in shop."),
        ("shop:number", "number is no function and no list of functions, but a int."),
        ("shop:Shop", "Shop cannot be a tool: it is a class."),
        ("empty", "nothing in it was made with @tool. Name a function: empty:FUNCTION"),
        ("broken:f", "broken cannot be loaded: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("leaves.py:f", "leaves.py cannot be loaded: SystemExit: 3"),
        ("", ""),
    ],
)
def test_what_is_not_there_is_told_in_a_line(holdfast, tmp_path, given, told):
    done = holdfast("chat", "--tools", given, said="hello\n")
    assert done.returncode == 1
    assert done.stderr.startswith(f"holdfast: --tools {given}: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()  # nothing was begun


def test_where_it_broke_is_told(holdfast, tmp_path):
    assert f"({tmp_path / 'broken.py'}, line 1)" in holdfast("chat", "--tools", "broken").stderr


def test_calls_are_shown_beside_the_answers(holdfast, kept):
    done = holdfast(
        "chat",
        *("--tools", "shop", "--tools", "shop:get_weather"),
        said="get_weather for Paris and breaks\nlong_story\n",
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [
        "get_weather says: “sunny in Paris”",
        "breaks did not work: “Not [31m today.”",
    ]
    assert done.stdout.splitlines()[2].startswith("long_story says: “Once upon a time.")
    lines = [re.sub(r"\d+\.\d s", "0.0 s", line) for line in done.stderr.splitlines()]
    lines = [line for line in lines if re.match(r"  \S", line)]
    assert lines[:4] == [
        '  calls get_weather {"city":"Paris"}',
        "  calls breaks {}",
        "  get_weather gave: sunny in Paris (0.0 s)",
        "  breaks failed: Not␛[31m today. (0.0 s)",
    ]
    assert lines[4] == "  calls long_story {}"
    assert re.fullmatch(r"  long_story gave: Once upon .*… \(0\.0 s\)", lines[5])
    assert len(lines[5]) <= 200
    assert [turn.status for turn in kept()] == ["completed", "completed"]


SOURCE = """
from holdfast import tool

@tool
def look() -> str:
    return "looked"

class Source:
    name = "far away"
    offered = [look]

    async def tools(self):
        return self.offered

    async def close(self):
        open("closed", "w").close()

source = Source()
"""


def test_what_offers_tools_may_be_named_and_is_closed_at_the_end(holdfast, tmp_path):
    (tmp_path / "sources.py").write_text(SOURCE)
    done = holdfast("chat", "--tools", "sources:source", "--tools", "shop:breaks", said="look and breaks\n")
    assert loaded(done) == ["breaks", "those of far away"]
    assert done.stdout.startswith("look says: “looked”\nbreaks did not work:")
    assert (tmp_path / "closed").exists()


def test_a_service_calls_too(holdfast, service, there):
    service.script(CallTools([("get_weather", '{"city": "Oslo"}')], text="Let me see."), "Sunny.")
    done = holdfast("chat", *there, "--tools", "shop:get_weather", said="And in Oslo?\n")
    assert done.stdout == "Let me see.\nSunny.\n"
    assert '  calls get_weather {"city": "Oslo"}\n  get_weather gave: sunny in Oslo' in done.stderr


def test_calls_at_a_terminal(terminal):
    chat = terminal("chat", "--tools", "shop:everything", columns=60)
    assert "tools    get_weather, breaks" in chat.wait_for_prompt()
    chat.line(f"get_weather for {'x' * 100} and breaks")
    chat.wait_for(r'\n  calls get_weather \{"city":"x+…\n  calls breaks \{\}\n')
    chat.wait_for(
        r"\n?  get_weather gave: sunny in x+… \(\d\.\d s\)\n  breaks failed: Not␛\[31m today\. \(\d\.\d s\)\n"
    )
    chat.wait_for_prompt()
    assert "\x1b[33m  breaks failed:" in chat.seen
    assert "\x1b[31m" not in chat.seen
    chat.line("/history")
    shown = chat.wait_for_prompt()
    assert "tool: [result of get_weather: sunny in xx" in shown
    assert "tool: [error of breaks: Not␛[31m\ntoday.]" in shown
    chat.line("/quit")
    assert chat.end() == 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(capsys):
    clock = Clock()

    def shown(*updates, earlier=()):
        """What is shown of updates; a number lets so many seconds pass."""
        calls = CallLines(Screen({}), earlier, clock)
        for update in updates:
            if isinstance(update, float):
                clock.now += update
            else:
                calls.take(update)
        out = capsys.readouterr()
        return (out.out + out.err).splitlines()

    return shown


def call(index, call_id="", name="", arguments=""):
    return ToolCallUpdate(index=index, call_id=call_id, name=name, arguments=arguments)


def test_a_call_is_shown_when_it_is_whole_and_a_result_with_the_time_it_took(lines):
    end = [FinishUpdate(finish_reason="tool_calls"), UsageUpdate(usage=Usage())]
    assert lines(
        *[
            call(0, "a", "one"),
            call(0, arguments='{"x":'),
            call(0, arguments="1}"),
            1.0,
            call(1, "b", "two"),
            *end,
            2.0,
        ],
        *[ToolResultUpdate(call_id="a", result="1"), ToolResultUpdate(call_id="b", result="", is_error=True)],
    ) == ['  calls one {"x":1}', "  calls two", "  one gave: 1 (2.0 s)", "  two failed: nothing (2.0 s)"]


def test_results_without_a_known_id_belong_to_the_calls_in_their_order(lines):
    results = [ToolResultUpdate(call_id=f"made_{number}", result=str(number)) for number in range(3)]
    assert lines(call(0, "", "one"), call(1, "", "two"), *results) == [
        *["  calls one", "  calls two", "  one gave: 0 (0.0 s)", "  two gave: 1 (0.0 s)", "  the tool gave: 2 (0.0 s)"]
    ]


def test_a_run_that_goes_on_knows_the_earlier_calls(lines):
    earlier = [ToolCallContent("a", "one", "{}"), ToolCallContent("b", "two", "{}")]
    assert lines(3.0, ToolResultUpdate(call_id="b", result="2"), earlier=earlier) == ["  two gave: 2 (3.0 s)"]
