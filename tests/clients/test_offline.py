"""The offline partner: small conversations, each sent as an engine sends them, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.clients.offline import MODEL, OfflineChatClient, OfflineCodec
from holdfast.clients.offline_partner import rules as offline_rules
from holdfast.clients.offline_partner.calls import Offered, Wishes, calls_for
from holdfast.clients.offline_partner.jokes import JOKES, TOPICS, VOICE_NAMES, VOICES, Voice, begun_in, found_in, tell
from holdfast.clients.offline_partner.sent import Said
from holdfast.clients.offline_partner.words import name_in
from holdfast.conversation.errors import BadRequestError, ConfigurationError, InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    Content,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
    assembled,
)
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer, FinishUpdate, UsageUpdate
from holdfast.ports.clients import AnswerFormat, ChatClient, ChatOptions, ChatRequest
from holdfast.ports.runtime import SystemRuntime
from holdfast.ports.tools import ToolSpec

PIRATE = "Tell me a joke about a pirate."
ROBOT = "Tell me a joke about a robot."
PARROTED = "Now add some emojis to the joke and tell it in the voice of a pirate's parrot."
ROBOTIC = "Now add some emojis to the joke and tell it in the voice of a robot."

PIRATE_JOKE = tell(JOKES[0])
ROBOT_JOKE = tell(next(joke for joke in JOKES if joke.topic == "robot"))
LOST = "not sent any earlier joke"

CLIENT: ChatClient = OfflineChatClient()


def body_of(messages: Sequence[ChatMessage], *, instructions: str | None = None, stream: bool = False) -> bytearray:
    """A body as the engine builds it: head, messages, and the tail in place of the last separator."""
    body = bytearray(CLIENT.codec.head(instructions))
    for message in messages:
        body += CLIENT.codec.message(message)
    body[-1:] = CLIENT.codec.tail(ChatOptions(), stream=stream)
    return body


async def batches_of(
    messages: Sequence[ChatMessage],
    *,
    instructions: str | None = None,
    stream: bool = False,
    client: ChatClient = CLIENT,
) -> list[Sequence[AgentRunResponseUpdate]]:
    body = body_of(messages, instructions=instructions, stream=stream)
    found = []
    async for batch in client.ask(ChatRequest(body, ChatOptions(), stream)):
        body += b"the engine goes on writing here"  # the body is only lent until the first batch
        found.append(batch)
    return found


def folded(batches: list[Sequence[AgentRunResponseUpdate]]) -> Answer:
    answer = Answer()
    for batch in batches:
        answer.add(batch)
    return answer


async def answered(messages: Sequence[ChatMessage], instructions: str | None = None) -> ChatMessage:
    """The answer to these messages; the same, whether it is streamed or not."""
    whole = folded(await batches_of(messages, instructions=instructions))
    streamed = folded(await batches_of(messages, instructions=instructions, stream=True))
    message = whole.message(str)
    assert message is not None
    assert message == streamed.message(str)
    assert (whole.usage, whole.finish_reason, whole.model, whole.response_id) == (
        streamed.usage,
        streamed.finish_reason,
        streamed.model,
        streamed.response_id,
    )
    return message


async def talk(*said: str, instructions: str | None = None) -> list[str]:
    """A conversation: each line is said after the answer to the one before."""
    messages: list[ChatMessage] = []
    for line in said:
        messages.append(ChatMessage("user", text=line))
        messages.append(await answered(messages, instructions))
    return [message.text for message in messages[1::2]]


def user(*contents: Content | str) -> ChatMessage:
    return ChatMessage("user", contents)


def assistant(text: str) -> ChatMessage:
    return ChatMessage("assistant", text=text)


# --- the conversation of the source document --------------------------------------------------------------------


async def test_pirate_joke_is_told_again_by_the_parrot():
    joke, again = await talk(PIRATE, PARROTED)
    assert joke == PIRATE_JOKE
    assert again == (
        "Squawk! Why did the pirate take his parrot to the bank? 🏴‍☠️ 🦜 🏦\n"
        "Squawk! It was the only one aboard who kept repeating the account number. 💰 😂\n"
        "Account number! Account number! Pieces of eight! 🦜"
    )


async def test_two_threads_do_not_hear_each_other():
    pirate, robot = [user(PIRATE)], [user(ROBOT)]
    pirate.append(await answered(pirate))
    robot.append(await answered(robot))
    assert (pirate[1].text, robot[1].text) == (PIRATE_JOKE, ROBOT_JOKE)
    parroted = (await answered([*pirate, user(PARROTED)])).text
    robotic = (await answered([*robot, user(ROBOTIC)])).text
    assert found_in(parroted) is JOKES[0]
    assert "Squawk!" in parroted
    assert "🦜" in parroted
    assert found_in(robotic) == found_in(ROBOT_JOKE)
    assert "BEEP." in robotic
    assert "🤖" in robotic


@pytest.mark.parametrize("request_", [PARROTED, ROBOTIC, "tell it again", "explain the joke", "the pirate joke again"])
async def test_lost_context_is_visible_at_once(request_):
    assert LOST in (await talk(request_))[0]


# --- a table: what is said, one after another, and what must stand in the last answer ----------------------------

CONVERSATIONS: list[tuple[list[str], list[str]]] = [
    # jokes
    ([PIRATE], [PIRATE_JOKE]),
    (["tell me a JOKE about a pirate!!"], [PIRATE_JOKE]),
    (["Could you please tell us a really good pirate joke?"], [PIRATE_JOKE]),
    (["Hi! A robot joke, please."], [ROBOT_JOKE]),
    (["joke"], [PIRATE_JOKE]),
    (["Tell me a joke\nabout a robot"], [ROBOT_JOKE]),
    (["Make me laugh"], [PIRATE_JOKE]),
    (["Tell me, in the voice of a ghost, a joke"], ["Boooo!"]),
    (["Tell me a joke about a pirate's parrot"], ["call centre"]),
    (
        ["Tell me a joke about an octopus with emojis in the voice of my grandmother"],
        ["🐙", "Have another biscuit. 🧶"],
    ),
    (["Tell me a joke about a submarine."], ["I know no joke about a submarine", "a pirate, a robot"]),
    (["Tell me a joke about a submarine.", "yes please"], [PIRATE_JOKE]),
    (["Tell me a joke about a submarine.", "a robot, please"], [ROBOT_JOKE]),
    ([PIRATE, "And about a robot?"], [ROBOT_JOKE]),
    ([PIRATE, "another one about a robot"], [ROBOT_JOKE]),
    (["another one"], [LOST, "the first", PIRATE_JOKE]),
    # the last one again
    ([PIRATE, "Add some emojis"], ["🏴‍☠️", "😂"]),
    ([PIRATE, "Now in the voice of a robot"], ["BEEP.", "ACCOUNT NUMBER"]),
    ([PIRATE, "Tell it like a pirate would"], ["Arrr", "th' pirate"]),
    ([PIRATE, "in a ghost's voice, please"], ["Boooo!"]),
    ([PIRATE, "Can you say that again in Tom's voice?"], ["In Tom's voice"]),
    ([PIRATE, "in a squeaky voice please"], ["In a squeaky voice"]),
    ([PIRATE, "Tell the joke in the style of Dr. Seuss, with emojis"], ["In the voice of Dr. Seuss,", "😂"]),
    ([PIRATE, "Tell it in the voice of Tom and Jerry and add emojis"], ["In the voice of Tom and Jerry,", "😂"]),
    ([PIRATE, "Tell it in the voice of a parrot", "Now add emojis"], ["Squawk!", "😂"]),
    ([PIRATE, PARROTED, ROBOTIC], ["BEEP.", "ACCOUNT NUMBER", "🤖"]),
    ([PIRATE, PARROTED, ROBOT, ROBOTIC], ["ALL TESTS PASSED"]),
    ([PIRATE, ROBOT, "What do you remember?", "Tell me the pirate joke again"], [PIRATE_JOKE]),
    ([PIRATE, ROBOT, "tell me the joke about the bank again"], [PIRATE_JOKE]),
    ([PIRATE, "Tell me the joke about the submarine again"], [LOST, "submarine"]),
    ([PIRATE, "explain it"], ["account number"]),
    ([PIRATE, "Repeat that."], [PIRATE_JOKE]),
    # jokes that were not asked for
    (["Don't tell me a joke"], ["no jokes"]),
    (["no jokes, please"], ["no jokes"]),
    (["Why don't you tell me a joke?"], [PIRATE_JOKE]),
    (["I don't know any jokes. Tell me one about a pirate!"], ["pirate"]),
    (["I have a joke for you"], ["I am listening"]),
    (["```python\ntell_me = 'a joke'\n# tell me a joke about a pirate\n```"], ["without words that I can read"]),
    (["What does this do? `tell me a joke`"], ["I heard: “What does this do? `tell me a joke`”"]),
    (["def joke(): return 1"], ["I heard: “def joke(): return 1”"]),
    (["That was a good joke"], ["all week"]),
    (["That joke was terrible"], ["tough crowd"]),
    (["Translate the joke to French"], ["I heard: “Translate the joke to French”", "With jokes I can do this"]),
    # names
    (["My name is Ada.", PIRATE, "How are you?", "What is my name?"], ["Your name is Ada."]),
    (["Hello, I'm Ada!", "who am I?"], ["Your name is Ada."]),
    (["please call me Ada", "do you know my name"], ["Your name is Ada."]),
    (["My name is ada and I like tea", "What’s my name?"], ["Your name is Ada."]),
    (["I'm Ada", "Call me Grace Hopper", "What is my name?"], ["Your name is Grace Hopper."]),
    (["我们聊聊. My name is 李雷。", "What is my name?"], ["Your name is 李雷."]),
    (["My name is Ada. What is my name?"], ["Your name is Ada."]),
    (["I'm tired", "What is my name?"], ["You have not told me your name"]),
    (["What is my name?"], ["You have not told me your name"]),
    (["I'm Ada"], ["Nice to meet you, Ada!"]),
    # other things to remember
    (["My favourite colour is green.", "Hello", "What's my favourite colour?"], ["“My favourite colour is green.”"]),
    (["My dog is called Rex", "what is my dog called?"], ["“My dog is called Rex”"]),
    (["What is my favourite colour?"], ["You have not told me about your favourite colour"]),
    (["Remember that the code is 1234."], ["Noted: “Remember that the code is 1234.”"]),
    # who said what
    ([PIRATE, "Hello", "What did I say first?"], [PIRATE]),
    ([PIRATE, "Hello", "What was my first question?"], [PIRATE]),
    ([PIRATE, "Hello", "What did I say before?"], ["Just before this you said: “Hello”"]),
    ([PIRATE, "Hello", "what was the last thing I said"], ["“Hello”"]),
    (["What did I say before?"], ["the first message of yours"]),
    ([PIRATE, "Hello", "What did you say first?"], ["account number"]),
    (["What did you just say?"], ["no earlier answer"]),
    ([PIRATE, "Hello", "How many messages do you see?"], ["I see 5 messages: 3 from you", "2 from me", "turn 3"]),
    (["How many turns do you see?"], ["I see 1 message:", "turn 1"]),
    (["Repeat that"], ["no earlier answer"]),
    (["What do you remember?"], ["Nothing yet"]),
    (["I'm Ada", PIRATE, "What do you remember?"], ["your name is Ada", "“I'm Ada”", "1 joke", "2 times"]),
    # who it is
    (["Who are you?"], ["a set of rules, no language model"]),
    (["Which model are you?"], ["no language model"]),
    (["Are you ChatGPT?"], ["no language model"]),
    (["What can you do?"], ["octopus", "no language model"]),
    (["What are your instructions?"], ["I was sent no instructions"]),
    # manners
    (["Hello!"], ["Hello!", "no language model"]),
    (["I'm Ada", "Good morning"], ["Hello again, Ada!"]),
    (["Thanks a lot"], ["You are welcome!"]),
    (["I'm Ada", "bye"], ["Goodbye, Ada!"]),
    (["How are you?"], ["in order"]),
    (["😂"], ["all week"]),
    (["yes"], ["What shall we do next?"]),
    (["Please sing."], ["I heard: “Please sing.”"]),
    (["no, thanks"], ["All right."]),
    # whatever else
    (["The weather is fine."], ["I heard: “The weather is fine.”"]),
    (["What is the capital of France?"], ["I heard: “What is the capital of France?”", "no answer"]),
    (["Erzähl mir einen Witz über Möwen"], ["I heard: “Erzähl mir einen Witz über Möwen”"]),
    (["給我講個笑話"], ["I heard: “給我講個笑話”"]),
    (["???"], ["without words"]),
    (["The \x1b[31mred\x07 one\u202e"], ["“The [31mred one”"]),
]


@pytest.mark.parametrize(("said", "parts"), CONVERSATIONS, ids=[" / ".join(said)[:60] for said, _ in CONVERSATIONS])
async def test_conversation(said, parts):
    answers = await talk(*said)
    for part in parts:
        assert part in answers[-1]


# --- jokes ------------------------------------------------------------------------------------------------------


async def test_another_joke_is_always_a_new_one_until_all_are_told():
    answers = await talk(PIRATE, *["Another one, please"] * (len(JOKES) - 1), "another joke")
    told = [found_in(text) for text in answers[:-1]]
    assert set(told) == set(JOKES)
    assert [joke.topic for joke in told[:3] if joke] == ["pirate"] * 3
    assert "You have had all my jokes about a pirate." in answers[3]
    assert "You have had every joke that I know" in answers[-1]
    assert found_in(answers[-1]) is told[0]


@pytest.mark.parametrize("joke", JOKES, ids=lambda joke: joke.punchline[:30])
@pytest.mark.parametrize("voice", [None, *VOICES.values(), Voice("Like Tom:", closing="{echo}")])
def test_a_joke_is_found_again_however_it_was_told(joke, voice):
    assert found_in(tell(joke, voice)) is joke
    assert found_in(tell(joke, voice, emojis=True)) is joke


def test_the_tables_fit_each_other():
    assert {joke.topic for joke in JOKES} == set(TOPICS)
    assert set(VOICE_NAMES) == set(VOICES)


async def test_joke_of_another_model_is_told_again():
    adopted = [user(PIRATE), assistant("Why do seagulls fly over the sea? Over a bay they would be bagels!")]
    text = (await answered([*adopted, user(PARROTED)])).text
    assert text.startswith("Squawk! Why do seagulls fly over the sea? 🤔\nSquawk! Over a bay they would be bagels! 😂")
    assert text.endswith("Be bagels! Be bagels! Pieces of eight! 🦜")


async def test_not_every_answer_is_a_joke():
    assert LOST in (await talk("Tell me a joke about a submarine", PARROTED))[-1]
    assert LOST in (await talk("Hello", PARROTED))[-1]


async def test_joke_that_was_cut_off_is_told_whole():
    cut = [user(PIRATE), assistant(PIRATE_JOKE[:30])]
    assert begun_in(PIRATE_JOKE[:30]) is JOKES[0]
    assert (await answered([*cut, user("Go on")])).text == f"Where was I? From the top:\n{PIRATE_JOKE}"
    assert found_in((await answered([*cut, user(PARROTED)])).text) is JOKES[0]


# --- what else is sent ------------------------------------------------------------------------------------------


async def test_instructions_are_seen():
    told = "You are good at telling jokes."
    assert f"“{told}”" in (await talk("What are your instructions?", instructions=told))[0]
    assert f"“{told}”" in (await talk("Who are you?", instructions=told))[0]


async def test_system_messages_count_as_instructions():
    messages = [ChatMessage("system", text="Be kind."), user("What are your instructions?")]
    assert "“Be brief. Be kind.”" in (await answered(messages, "Be brief.")).text
    assert "“Be kind.”" in (await answered(messages[::-1])).text


async def test_images_and_files_are_mentioned_but_not_looked_at():
    image, file = ImageContent("https://example.org/a.png"), FileContent("data:,x", "a.pdf")
    text = (await answered([user("What is this?", image, file, FileContent("data:,y"))])).text
    assert "I heard: “What is this?”" in text
    assert "1 image and 2 files (a.pdf, unnamed), but I cannot look inside" in text
    assert "I was sent 2 images, but I cannot look inside" in (await answered([user(image, image)])).text
    earlier = [user(image), assistant("I cannot look."), user("What do you remember?")]
    assert "you showed me 1 image" in (await answered(earlier)).text


async def test_results_are_told_by_the_names_of_their_tools():
    messages = [
        user("Use the tools"),
        ChatMessage("assistant", [ToolCallContent("1", "look"), ToolCallContent("2", "listen")]),
        ChatMessage("tool", [ToolResultContent("1", "found\x1b[31m")]),
        ChatMessage("tool", [ToolResultContent("2", "too loud", is_error=True)]),
    ]
    assert (await answered(messages)).text == "look says: “found [31m”\nlisten did not work: “too loud”"
    messages += [assistant("So it is."), user("What did I say before?")]
    assert "“Use the tools”" in (await answered(messages)).text


async def test_several_messages_of_the_user_in_a_row():
    messages = [user("My name is Ada"), user("Are you there?"), user("What is my name?")]
    assert "Your name is Ada" in (await answered(messages)).text
    messages[-1] = user("What did I say before?")
    assert "“Are you there?”" in (await answered(messages)).text
    messages[-1] = user("How many messages do you see?")
    assert "3 messages: 3 from you (this one included) and 0 from me. This is turn 1" in (await answered(messages)).text


async def test_no_user_message_at_all():
    assert "without words" in (await answered([])).text
    assert "without words" in (await answered([assistant("Hello")])).text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My name is Ada Lovelace.", "Ada Lovelace"),
        ("my name's ada", "Ada"),
        ("I am called Jean-Luc and you?", "Jean-Luc"),
        ("I'm Zoë, hello", "Zoë"),
        ("I'm O'Brien", "O'Brien"),
        ("i am tired", None),
        ("I'm German", None),
        ("I AM HUNGRY", None),
        ("My name is not Bob", None),
        ("Don't call me Bob", None),
        ("call me later", None),
        ("I'm Not sure. I'm Ada", "Ada"),
    ],
)
def test_name_in(text, name):
    assert name_in(text) == name


# --- the codec and the client -----------------------------------------------------------------------------------


def test_body_is_lines_of_json():
    lines = bytes(body_of([user("Hi\nthere"), assistant("Hello")], instructions="Be kind.", stream=True)).split(b"\n")
    assert [json.loads(line) for line in lines] == [
        {"instructions": "Be kind."},
        {"role": "user", "text": "Hi\nthere"},
        {"role": "assistant", "text": "Hello"},
        {"options": {}, "stream": True},
    ]


def test_codec_tells_what_is_beside_the_words():
    codec = OfflineCodec()
    message = assembled(
        "assistant",
        (
            TextContent("a"),
            RefusalContent("b"),
            ReasoningContent("secret"),
            ImageContent("data:,secret"),
            FileContent("data:,secret", "f.txt"),
            ToolCallContent("1", "look", "{}"),
            ToolResultContent("1", "secret"),
            UnknownContent("new", b'{"type":"new"}'),
        ),
    )
    assert json.loads(codec.message(message)) == {
        "role": "assistant",
        "text": "ab",
        "images": 1,
        "files": ["f.txt"],
        "calls": [{"id": "1", "name": "look"}],
        "results": [{"id": "1", "text": "secret"}],
    }
    assert codec.message(assembled("assistant", (ReasoningContent("x"),))) == b""
    assert codec.head(None) == b""


# --- tools ------------------------------------------------------------------------------------------------------

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "default": 1},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city"],
}
PAY = {
    "type": "object",
    "properties": {"amount": {"type": "number"}, "to": {"$ref": "#/$defs/Who"}, "note": {"type": ["string", "null"]}},
    "required": ["amount", "to", "note"],
    "$defs": {"Who": {"type": "string"}},
}
TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "tags": {"type": "array", "items": {}}},
    "required": ["left", "right", "tags"],
}
OFFERED = (
    Offered("get_weather", WEATHER),
    Offered("pay", PAY),
    Offered("wait", {"type": "object", "properties": {"hours": {"type": "integer"}}, "required": ["hours"]}),
    Offered("plant", TREE),
    Offered("look"),
)


@pytest.mark.parametrize(
    ("said", "called"),
    [
        ("use get_weather with city Paris", [("get_weather", {"city": "Paris"})]),
        ("get_weather city=Paris, days=3", [("get_weather", {"city": "Paris", "days": 3})]),
        ("get_weather days 3 city is New York.", [("get_weather", {"city": "New York", "days": 3})]),
        ('For days: 2 and city: "Rio, Brazil" use Get_Weather!', [("get_weather", {"city": "Rio, Brazil", "days": 2})]),
        ("get_weather in fahrenheit city Rome", [("get_weather", {"city": "Rome", "unit": "fahrenheit"})]),
        ("get_weather for Paris please", [("get_weather", {"city": "Paris"})]),
        ("get_weather of 'San José', days soon", [("get_weather", {"city": "San José"})]),
        (
            "Use get_weather for Paris and get_weather in Rome, then look.",
            [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"}), ("look", {})],
        ),
        ("pay 5.5 to Ada", [("pay", {"amount": 5.5, "to": "Ada", "note": None})]),
        ("wait 3 please", [("wait", {"hours": 3})]),
        ('Here: ```{"hours": "no"}``` for wait', [("wait", {"hours": "no"})]),
        ('wait {no json} but {"hours": 2, "why": {"a": [1]}}', [("wait", {"hours": 2, "why": {"a": [1]}})]),
        ("`look`", [("look", {})]),
        ("overlook, looking, get_weather_now and outlook", []),
        ("What is the weather?", []),
    ],
)
def test_a_tool_that_is_named_is_called(said, called):
    assert [(call.name, json.loads(call.arguments)) for call in calls_for(said, Wishes(OFFERED))] == called


def test_json_is_handed_on_as_it_is_written():
    (call,) = calls_for('look {"a" :1,  "a": 2.50}', Wishes(OFFERED))
    assert call.arguments == '{"a" :1,  "a": 2.50}'


async def answer_with(text, *, stream=False, results=(), **options):
    """The answer to a message of a client that is offered tools."""
    specs = [ToolSpec(tool.name, "", tool.parameters) for tool in OFFERED]
    body = bytearray(CLIENT.codec.message(user(text)))
    for message in results:
        body += CLIENT.codec.message(message)
    chosen = ChatOptions(**options)
    body[-1:] = CLIENT.codec.tail(chosen, stream=stream, tools=CLIENT.codec.tools(specs))
    batches = [batch async for batch in CLIENT.ask(ChatRequest(body, chosen, stream))]
    answer = Answer()
    for batch in batches:
        answer.add(batch)
    return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_come_as_pieces_of_one_answer(stream):
    answer = await answer_with('look and wait {"hours": 2}', stream=stream)
    message = answer.message(str)
    assert message is not None
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("look", "{}"), ("wait", '{"hours": 2}')]
    assert len({call.call_id for call in message.tool_calls}) == 2
    assert all(0 < len(call.call_id) <= 40 for call in message.tool_calls)
    assert (message.text, answer.finish_reason) == ("", "tool_calls")


async def said_with(text, **options):
    message = (await answer_with(text, **options)).message(str)
    return message.text, [(call.name, json.loads(call.arguments)) for call in message.tool_calls]


async def test_what_is_not_clear_is_asked_for():
    assert await said_with("get_weather") == (
        "To call get_weather I need its city: say “use get_weather with city Paris”.",
        [],
    )
    told, called = await said_with("pay")
    assert "amount and to: say “use pay with amount 5 and to something”" in told
    told, called = await said_with("What is the weather?")
    assert "I can call get_weather, pay, wait, plant and look: say “use get_weather with city Paris”." in told
    told, called = await said_with("plant")
    assert "plant {" in told
    assert called == []


async def test_tool_choice_counts():
    assert (await said_with("look", tool_choice="none"))[1] == []
    assert (await said_with("hello", tool_choice="required"))[1] == [("get_weather", {"city": "hello"})]
    assert (await said_with("get_weather and look", tool_choice="look"))[1] == [("look", {})]
    assert (await said_with("soon", tool_choice="wait"))[1] == [("wait", {"hours": 0})]
    assert (await said_with("look, wait 3", parallel_tool_calls=False))[1] == [("look", {})]


async def test_results_are_answered_in_words_whatever_the_choice_is():
    results = [
        ChatMessage("assistant", [ToolCallContent("1", "look")]),
        ChatMessage("tool", [ToolResultContent("1", "a ship")]),
    ]
    for choice in (None, "required", "look", "none"):
        assert await said_with("look", results=results, tool_choice=choice) == ("look says: “a ship”", [])


FORM = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "year": {"type": "integer", "minimum": 1900},
        "mood": {"enum": ["sad", "merry"]},
        "ok": {"type": "boolean"},
        "by": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "left": {"type": "string"},
    },
    "required": ["title", "year", "mood", "ok", "by", "tags", "note"],
    "$defs": {"Tag": {"type": "string"}},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_in_a_form_is_made_of_the_words_of_the_message(stream):
    text, _ = await said_with(
        'A merry film: title "Jaws" and name Steven, ok yes.', answer_format=AnswerFormat("film", FORM), stream=stream
    )
    assert json.loads(text) == {
        "title": "Jaws",
        "year": 1900,
        "mood": "merry",
        "ok": True,
        "by": {"name": "Steven"},
        "tags": ["Jaws"],
        "note": None,
    }


async def test_a_form_that_holds_itself_comes_to_an_end():
    wide = {f"p{number}": {"$ref": "#"} for number in range(30)}
    schema = {"type": "object", "properties": wide, "required": list(wide)}
    for form in (TREE, schema):
        assert isinstance(json.loads((await said_with("hm", answer_format=AnswerFormat("f", form)))[0]), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["string", "null", "#", "#/$defs/a", "a", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "required", "items", "enum", "anyOf", "$ref", "$defs", "a", ""]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=40) | st.sampled_from(["a a 1 {", 'look a "b" a=3', 'a {"a": 1}']),
    st.lists(
        st.builds(
            Offered,
            st.sampled_from(["a", "look", "", "s"]),
            st.dictionaries(st.text(), JSON) | JSON.filter(lambda value: isinstance(value, dict)),
        ),
        max_size=3,
    ).map(tuple),
    st.sampled_from([None, "none", "required", "a", "nobody"]),
    st.none() | st.builds(AnswerFormat, st.just("f"), JSON.filter(lambda value: isinstance(value, dict))),
)
def test_any_schema_gets_an_answer(text, tools, choice, form):
    spoken = offline_rules.answer(None, [Said("user", text)], Wishes(tools, choice, None, form))
    assert spoken.text or spoken.calls
    for call in spoken.calls:
        assert isinstance(json.loads(call.arguments), dict)


def test_options_are_told_and_what_cannot_be_written_is_refused():
    codec = OfflineCodec()
    assert json.loads(codec.tail(ChatOptions(seed=1, extra={"a": [1]}), stream=False)) == {
        "options": {"seed": 1, "extra": {"a": [1]}},
        "stream": False,
    }
    with pytest.raises(InvalidInputError):
        codec.tail(ChatOptions(extra={"a": object()}), stream=False)
    with pytest.raises(InvalidInputError):
        codec.head("half a pair: \ud800")


async def test_broken_body_is_refused():
    with pytest.raises(BadRequestError, match="service offline"):
        async for _ in CLIENT.ask(ChatRequest(b"{", ChatOptions(), False)):
            pass


async def test_facts_of_an_answer():
    (whole,) = await batches_of([user(PIRATE)], instructions="Be kind.")
    text, usage, finish = whole
    assert isinstance(usage, UsageUpdate)
    assert isinstance(finish, FinishUpdate)
    words = len(text.text.split())
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (9, words)
    assert usage.usage.total_tokens == 9 + words
    assert (finish.finish_reason, finish.model) == ("stop", MODEL)
    again = (await batches_of([user(PIRATE)], instructions="Be kind."))[0]
    assert again == whole
    other = folded(await batches_of([user(ROBOT)], instructions="Be kind."))
    assert other.response_id != finish.response_id


class SleepyRuntime(SystemRuntime):
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_stream_comes_word_by_word_with_the_delay_between():
    runtime = SleepyRuntime()
    batches = await batches_of([user(PIRATE)], stream=True, client=OfflineChatClient(delay=0.05, runtime=runtime))
    pieces = [batch[0].text for batch in batches[:-1]]
    assert "".join(pieces) == PIRATE_JOKE
    assert [piece.strip() for piece in pieces] == PIRATE_JOKE.split()
    assert [type(update) for update in batches[-1]] == [UsageUpdate, FinishUpdate]
    assert runtime.slept == [0.05] * (len(pieces) - 1)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_delay_is_a_number_of_seconds(delay):
    with pytest.raises(ConfigurationError):
        OfflineChatClient(delay=delay)


# --- whatever may come ------------------------------------------------------------------------------------------

M = 1_000_000
HUGE = {
    "one word": "a" * M,
    "joke": "tell me a joke about " * (M // 21),
    "code": "``` joke " * (M // 9),
    "backticks": "`" * M,
    "voices": "in a voice of it " * (M // 17),
    "emojis": "it add emojis " * (M // 14),
    "names": "I'm A " * (M // 6),
    "facts": "my x is " * (M // 8),
    "spaces": " " * M + "z",
    "lines": " \n" * (M // 2) + "z",
    "controls": "\x00\x1b\x7f\u202e" * (M // 4),
    "Chinese": "猫" * M,
    "tools": "look city " * (M // 10),
    "braces": "look " + "{" * M,
    "quotes": "look " + "“" * M,
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
@pytest.mark.timeout(20)
async def test_huge_message(text):
    for asked in (text, "What do you remember?", "What is my x?", PARROTED, "What did you say?", "repeat that"):
        before = [] if asked is text else [user(text), assistant(text)]
        said = (await answered([*before, user(asked)], text[:M])).text
        assert said.strip()
        for choice in (None, "required"):
            offline_rules.answer(None, [Said("user", asked)], Wishes(OFFERED, choice))
        offline_rules.answer(None, [Said("user", asked)], Wishes(answer_format=AnswerFormat("f", FORM)))
        assert len(said) < 2000


async def test_end_of_a_long_message_is_read():
    assert (await talk(f"{'This is a long story about the sea. ' * 1000}\nTell me a joke about a robot."))[
        0
    ] == ROBOT_JOKE


WORDS = """
    tell me a the another joke about pirate cat it that in voice of like with emojis add no my name is I'm Ada what did
    you i say first last remember repeat how many messages ? ! . , ' " ` ```
    """.split()  # noqa: SIM905 - a list of words reads better as words
TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from([line for said, _ in CONVERSATIONS for line in said] + [PIRATE_JOKE, ROBOT_JOKE, PIRATE_JOKE[:30]]),
    st.lists(
        st.sampled_from([*WORDS, "\n", "\x00", ""]),
        max_size=14,
    ).map(" ".join),
)
PARTS = st.one_of(
    TEXTS.map(TextContent),
    TEXTS.map(RefusalContent),
    TEXTS.map(ReasoningContent),
    st.just(ImageContent("https://example.org/a.png")),
    st.builds(FileContent, st.just("data:,x"), st.none() | st.text()),
    st.builds(ToolCallContent, st.text(), st.text(), st.text()),
    st.builds(ToolResultContent, st.text(), st.text(), st.booleans()),
    st.just(UnknownContent("hologram", b'{"type":"hologram"}')),
)
MESSAGES = st.builds(
    lambda role, parts: assembled(role, tuple(parts)),
    st.sampled_from(["system", "user", "user", "assistant", "assistant", "tool"]),
    st.lists(PARTS, max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(messages=st.lists(MESSAGES, max_size=8), instructions=st.none() | st.text())
async def test_any_messages_get_an_answer(messages, instructions):
    said = (await answered(messages, instructions)).text
    assert said.strip()
    assert len(said) < 2000
    assert all(sign.isprintable() or sign in "\n\u200d" for sign in said)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(Said, st.text(max_size=5), TEXTS, st.integers(0, 3), st.lists(st.text()).map(tuple)), max_size=6
    ),
    TEXTS,
)
def test_answer_is_a_pure_function(messages, instructions):
    assert offline_rules.answer(instructions, messages) == offline_rules.answer(instructions, messages)
