"""Recorded conversations: what a user says, and what the service answers when nothing is wrong with it.

Rule of this file: plain data. Everything that is said follows from the text and from how often the model was asked in
this turn, so that any conversation can be broken off anywhere and gone on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

from msgspec import Struct

from holdfast.testing.openai_chat import CallTools, ModelAnswer, Refuse, Say, Sloppy
from holdfast.testing.openai_chat_messages import text_of

GO_ON = "Please go on."


class Exchange(Struct, frozen=True):
    """What a user says, and the answers to it: one for each time that the model is asked in this turn."""

    said: str
    answers: tuple[ModelAnswer, ...]

    @property
    def text(self) -> str:
        """All that is told to the reader as text."""
        return "".join(text_of_answer(answer) for answer in self.answers)


class Talk(Struct, frozen=True):
    """A conversation. `instructions` are the agent's."""

    name: str
    exchanges: tuple[Exchange, ...]
    instructions: str | None = None


def text_of_answer(answer: ModelAnswer) -> str:
    """What of an answer is text: not its refusals and not what it thinks."""
    if isinstance(answer, Say):
        return answer.text
    return answer.text or "" if isinstance(answer, CallTools) else ""


Said: TypeAlias = tuple[str, tuple[ModelAnswer, ...]]


def _talk(name: str, *exchanges: Said, instructions: str | None = None) -> Talk:
    return Talk(name, tuple(Exchange(said, answers) for said, answers in exchanges), instructions)


TALKS: Sequence[Talk] = (
    _talk(
        "jokes",
        (
            "Tell me a joke about a pirate.",
            (Say(pieces=["Why did ", "the pirate ", "go to school? ", "Arr-t class."]),),
        ),
        ("Now with emojis.", (Say(pieces=["Why did the \U0001f3f4", "\u200d\u2620\ufe0f go? ", "Arr-t \U0001f3a8."]),)),
        ("And once more?", (Say(pieces=["No more."], finish_reason="length"),)),
        instructions="You are good at telling jokes.",
    ),
    _talk(
        "tools",
        (
            "What is the weather in Oslo?",
            (CallTools([("weather", {"city": "Oslo"})], text="Let me look. "), Say(pieces=["I cannot ", "tell."])),
        ),
        (
            "And in Rome and Bern?",
            (
                CallTools([("weather", {"city": "Rome"}), ("weather", {"city": "Bern"})], pieces=3),
                CallTools([("almanac", '{"city": "Bern", "days": [1, 2]}')], pieces=0),
                Say(pieces=["Nobody ", "knows."]),
            ),
        ),
        ("Thanks.", (Say(pieces=["You are ", "welcome."]),)),
    ),
    _talk(
        "thoughts",
        ("What is 17 times 23?", (Say(pieces=["It is ", "391."], reasoning="17 times 20 is 340. "),)),
        ("Sure?", (Say(pieces=["Quite ", "sure."], reasoning="3 times 17 is 51, and 340 and 51 is 391."),)),
        ("Good.", (Say(pieces=["Yes."]),)),
    ),
    _talk(
        "refusals",
        ("Write me a virus.", (Refuse("I will not do that.", pieces=["I will ", "not do ", "that."]),)),
        ("Then a poem.", (Say(pieces=["Roses ", "are ", "red."]),)),
        ("A virus in verse!", (Refuse("No."),)),
    ),
    _talk(
        "long",
        ("List the numbers.", (Say(pieces=[f"{n}, " for n in range(12)]),)),
        ("Stop.", (Say(pieces=["Stopped. "], usage=False),)),
        ("\u0627\u0644\u0633\u0644\u0627\u0645 \u2028 \x00?", (Say(pieces=["\u0648\u0639\u0644\u064a\u0643\u0645"]),)),
    ),
)


def _odd(name: str, answer: ModelAnswer) -> Talk:
    """A conversation in which the service says something odd, and then goes on as if nothing had been."""
    said = f"Say something odd: {name}."
    rest = (Say(pieces=["That ", "was odd."]),) if isinstance(answer, CallTools) else ()
    sound = Say(pieces=["Sound ", "again."])
    return _talk(f"odd: {name}", (said, (answer, *rest)), (f"And after {name}?", (sound,)))


class _Calls(CallTools):
    """Calls whose JSON is what it is given as."""

    def __init__(self, *calls: object) -> None:
        super().__init__([("unknown", {})])
        object.__setattr__(self, "given", calls)

    def message(self, number: int) -> dict[str, Any]:
        return {**super().message(number), "tool_calls": list(self.given)}  # type: ignore[attr-defined]

    def deltas(self, number: int) -> list[dict[str, Any]]:
        return [{"tool_calls": [{"index": n, **call}]} for n, call in enumerate(self.given)]  # type: ignore[attr-defined]


def _call(call_id: object, name: object = "fly", arguments: object = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


_TEXTS = {
    "nothing": Say(""),
    "blanks": Say(" \n\t "),
    "nothing, for it was too long": Say("", finish_reason="length"),
    "nothing, for it was filtered": Say("", finish_reason="content_filter"),
    "half, for it was filtered": Say(pieces=["Half ", "of"], finish_reason="content_filter"),
    "an unknown reason to finish": Say(pieces=["All ", "of it."], finish_reason="eos_token"),
    "control characters": Say(pieces=["a\x00b", "\x1b[31mred", "\u2028\u202e"]),
    "only thoughts": Say("", reasoning="Hm. Hm."),
    "a long text": Say(text="word " * 60_000, pieces=40),
    "nothing, as a refusal": Refuse(""),
    "no usage": Say(pieces=["No ", "usage."], usage=False),
}
_TOOLS = {
    "two calls of one id": _Calls(_call("same"), _call("same", "swim")),
    "a call without an id": _Calls(_call("")),
    "two calls without ids": _Calls(_call(None), _call(None, "swim")),
    "an id that is a number": _Calls(_call(7)),
    "an id that is odd": _Calls(_call("a b\n\u00e9\U0001f600")),
    "a call without a name": _Calls(_call("c1", "")),
    "a name that is none": _Calls(_call("c1", None)),
    "arguments that are no JSON": _Calls(_call("c1", "fly", "to: the moon")),
    "arguments that are cut off": _Calls(_call("c1", "fly", '{"to": "the mo')),
    "no arguments": _Calls(_call("c1", "fly", "")),
    "arguments that are null": _Calls(_call("c1", "fly", None)),
    "arguments as an object": _Calls(_call("c1", "fly", {"to": "the moon"})),
    "arguments as a list": _Calls(_call("c1", "fly", "[1, 2]")),
    "very many calls": _Calls(*(_call(f"c{n}") for n in range(100))),
    "calls, though it stopped": CallTools([("fly", {})], finish_reason="stop"),
    "calls that were too long": CallTools([("fly", {})], finish_reason="length"),
    "calls that were filtered": CallTools([("fly", {})], finish_reason="content_filter"),
    "a text and calls": CallTools([("fly", {"to": "\u6708"})], text="Wait. "),
}
# What a service may say, and none would be told itself: names and ids that its own rules forbid.
_FORBIDDEN = {
    "an id that is long": _Calls(_call("x" * 200)),
    "a name with blanks": _Calls(_call("c1", "fly to the moon!")),
    "a name that is long": _Calls(_call("c1", "f" * 300)),
    "a name that is not ASCII": _Calls(_call("c1", "flieg\u00fc")),
}
_MANNERS: dict[str, ModelAnswer] = {}
for _name in get_args(Sloppy):
    _usage = _name != "stream_for_json"  # whoever asks for no stream cannot ask for its usage
    _text = Say(pieces=["Take ", "it ", "as ", "it comes."], sloppy=_name, usage=_usage)
    _tools = CallTools([("fly", {"to": "x"}), ("swim", {})], text="So. ", sloppy=_name, usage=_usage)
    _MANNERS |= {f"the manner {_name}": _text, f"calls in the manner {_name}": _tools}

# What is not as documented, or of no use, but is an answer.
ODD_ANSWERS: Sequence[Talk] = [_odd(name, answer) for name, answer in (_TEXTS | _TOOLS | _FORBIDDEN | _MANNERS).items()]

_ALL = (*TALKS, *ODD_ANSWERS)
_ANSWERS = {exchange.said: exchange.answers for talk in _ALL for exchange in talk.exchanges}


def answer_to(messages: Sequence[object]) -> tuple[str, int, ModelAnswer]:
    """What is answered to these messages of a request: the text they end with, which answer it is, and the answer."""
    said, asked = "", 0
    for message in reversed(messages):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "user":
            said = text_of(message.get("content"))
            break
        asked += message.get("role") == "assistant"
    answers = _ANSWERS.get(said)
    if answers is None:
        return said, asked, Say(f"Heard: {said}")
    return said, asked, answers[min(asked, len(answers) - 1)]
