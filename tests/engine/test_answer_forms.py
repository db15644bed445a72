"""Answers of a form: typed values, one chance to mend them, and a thread that goes on whatever came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from holdfast import AnswerFormatError, InvalidInputError, ThreadStore
from holdfast.testing.scripted import ScriptedChatClient, calling


class Person(BaseModel):
    name: str
    age: int


@dataclass
class Point:
    x: int
    y: int


class Place(TypedDict):
    city: str


class Name(msgspec.Struct):
    first: str


KINDS: list[tuple[Any, str, Any]] = [
    (Person, '{"name": "Ada", "age": 36}', Person(name="Ada", age=36)),
    (Point, '{"x": 1, "y": 2}', Point(1, 2)),
    (Place, '{"city": "Rome"}', {"city": "Rome"}),
    (Name, '{"first": "Ada"}', Name("Ada")),
    (list[int], '{"value": [1, 2]}', [1, 2]),
]


@pytest.mark.parametrize(("kind", "text", "value"), KINDS, ids=lambda kind: getattr(kind, "__name__", ""))
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_becomes_a_value(store: ThreadStore, kind: Any, text: str, value: Any, streamed: bool) -> None:
    client = ScriptedChatClient([text[:5], text[5:]])
    agent = client.create_agent(response_format=kind, thread_store=store)
    thread = agent.get_new_thread()
    if streamed:
        stream = agent.run_stream("x", thread=thread)
        assert "".join([update.text async for update in stream]) == text
        response = await stream.response()
    else:
        response = await agent.run("x", thread=thread)
    assert (response.value, response.text) == (value, text)
    assert client.requests[0]["response_format"]["type"] == "json_schema"


async def test_an_answer_that_does_not_fit_is_asked_for_again(store: ThreadStore) -> None:
    client = ScriptedChatClient('{"name": "Ada"}', '{"name": "Ada", "age": 36}', "plain")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    response = await agent.run("Who?", thread=thread, response_format=Person)
    assert response.value == Person(name="Ada", age=36)
    assert "age" in client.said()[-1][1]
    assert [role for role, _ in client.said()] == ["user", "assistant", "user"]
    (turn,) = await thread.turns()
    assert (turn.status, turn.output) == ("completed", response.messages)
    plain = await agent.run("And now?", thread=thread)
    assert (plain.value, plain.text) == (None, "plain")
    assert "response_format" not in client.requests[-1]


@pytest.mark.parametrize("answers", [["no JSON", "none again"], [""]])
async def test_an_answer_that_stays_wrong_is_an_error_and_the_thread_goes_on(
    store: ThreadStore, answers: list[str]
) -> None:
    client = ScriptedChatClient(*answers, "fine")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(AnswerFormatError, match="not of the form") as caught:
        await agent.run("Who?", thread=thread, response_format=Person)
    assert caught.value.response.text == "".join(answers)
    assert [turn.status for turn in await thread.turns()] == ["failed"]
    assert (await agent.run("And now?", thread=thread)).text == "fine"


async def test_tools_come_before_the_form(store: ThreadStore) -> None:
    def age_of(name: str) -> int:
        return 36

    client = ScriptedChatClient(calling(("age_of", {"name": "Ada"})), '{"name": "Ada", "age": 36}')
    agent = client.create_agent(tools=[age_of], response_format=Person, thread_store=store)
    assert (await agent.run("Who?", thread=agent.get_new_thread())).value == Person(name="Ada", age=36)


async def test_a_retry_with_the_same_key_has_the_value_too(store: ThreadStore) -> None:
    client = ScriptedChatClient('{"name": "Ada", "age": 36}')
    agent = client.create_agent(response_format=Person, thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("Who?", thread=thread, idempotency_key="k")
    again = await agent.run("Who?", thread=thread, idempotency_key="k")
    assert first.value == again.value == Person(name="Ada", age=36)


def test_a_form_that_has_no_schema_is_refused_at_once() -> None:
    with pytest.raises(InvalidInputError):
        ScriptedChatClient().create_agent(response_format=object())
