"""Records: what is stored is read back as it was, and read as data only."""

from __future__ import annotations

import contextlib
import datetime
import json
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from any_messages import LOOK_ALIKES, any_message, json_values, known, messages_of, roles, texts
from hypothesis import example, given

from holdfast.conversation.errors import DamagedError, InvalidInputError, SchemaVersionError
from holdfast.conversation.messages import ChatMessage, TextContent, ToolCallContent, ToolResultContent, UnknownContent
from holdfast.conversation.records import ROOT, chain, decode_messages, decode_turn, encode_messages, encode_turn
from holdfast.conversation.turns import Turn, TurnError
from holdfast.conversation.updates import Usage

counts = st.integers(0, 2**62)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts)


def read(record: bytes) -> Turn:
    return decode_turn(record, turn_id="turn_1", seq=7, status="completed", started_us=1, ended_us=2)


def record_with(*contents: Any, **fields: Any) -> bytes:
    return msgspec.json.encode({"v": 1, "input": [{"role": "user", "contents": contents}], **fields})


# --- there and back --------------------------------------------------------------------------------------------


@given(st.lists(any_message, max_size=4))
def test_messages_are_read_back_equal(messages: list[ChatMessage]) -> None:
    stored = encode_messages(messages)
    assert decode_messages(stored) == tuple(messages)
    assert encode_messages(decode_messages(stored)) == stored


@given(
    st.lists(any_message, max_size=3),
    st.lists(any_message, max_size=3),
    st.none() | usages,
    st.none() | texts,
    st.none() | st.builds(TurnError, texts, texts),
)
def test_a_turn_is_read_back_equal(
    said: list[ChatMessage], answered: list[ChatMessage], usage: Usage | None, name: str | None, error: TurnError | None
) -> None:
    record = encode_turn(
        encode_messages(said), answered, usage=usage, model=name, service=name, finish_reason=name, error=error
    )
    turn = read(record)
    wanted = Turn("turn_1", 7, "completed", tuple(said), tuple(answered), usage, name, name, name, error, 1, 2)
    assert turn == wanted
    assert turn.messages == (*said, *answered)


@given(st.lists(messages_of(roles, known), max_size=3))
def test_a_record_is_plain_json(messages: list[ChatMessage]) -> None:
    """Any JSON reader sees the same texts; nothing is packed or escaped in a way of our own."""
    found = json.loads(encode_turn(encode_messages(messages)))
    assert found["v"] == 1
    for message, stored in zip(messages, found["input"], strict=True):
        assert stored["role"] == message.role
        assert [part.get("text") for part in stored.get("contents", [])] == [
            getattr(part, "text", None) for part in message.contents
        ]
        assert stored.get("properties") == message.additional_properties


def test_the_form_is_the_documented_one() -> None:
    said = encode_messages([ChatMessage("user", text="Hi"), ChatMessage("user", [], author_name="A", message_id="m")])
    assert said == (b'[{"role":"user","contents":[{"type":"text","text":"Hi"}]},{"role":"user","author":"A","id":"m"}]')
    answered = [
        ChatMessage("assistant", [ToolCallContent("c", "f", "{}")], additional_properties={"k": [None]}),
        ChatMessage("tool", [ToolResultContent("c", "r"), ToolResultContent("d", is_error=True)]),
    ]
    record = encode_turn(said, answered, usage=Usage(1, 2, 3), model="m", service="s", finish_reason="stop")
    assert record == (
        b'{"v":1,"input":' + said + b',"output":[{"role":"assistant","contents":[{"type":"tool_call","call_id":"c",'
        b'"name":"f","arguments":"{}"}],"properties":{"k":[null]}},{"role":"tool","contents":[{"type":"tool_result",'
        b'"call_id":"c","result":"r"},{"type":"tool_result","call_id":"d","is_error":true}]}],'
        b'"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3},"model":"m","service":"s","finish":"stop"}'
    )
    assert encode_turn(b"[]", answered, error=TurnError("C", "m")).endswith(b',"error":{"code":"C","message":"m"}}')


def test_whatever_is_empty_is_left_out() -> None:
    assert encode_turn(b"[]") == b'{"v":1,"input":[]}'


def test_a_record_without_what_may_be_left_out_is_read() -> None:
    turn = read(b'{"v":1}')
    assert (turn.input, turn.output, turn.usage, turn.error) == ((), (), None, None)
    assert read(b'{"v":1,"input":[{"role":"user"}]}').input == (ChatMessage("user", []),)


def test_the_bytes_of_the_input_are_taken_over_as_they_are() -> None:
    said = b' [ {"role" : "user", "contents":[{"type":"text","text":"\\u0048i"}], "future": 1.0e0} ] '
    assert said in encode_turn(said, [ChatMessage("assistant", text="Ho")])


# --- what this version does not know ---------------------------------------------------------------------------

FUTURE_PARTS = (
    b'{"type":"hologram","x":1.50,"y":[ ],"z":{"type":"text"}}',
    b'{ "y" : "\\u00e9" ,\n\t"type":"hologram"}',
    b'{"type":"text","text":["not","a","string"]}',
    b'{"type":"tool_call","call_id":"c"}',
    b'{"no type":1}',
    b'{"type":"","text":"x"}',
)


@pytest.mark.parametrize("raw", FUTURE_PARTS, ids=str)
def test_an_unknown_part_keeps_its_bytes(raw: bytes) -> None:
    record = b'{"v":1,"input":[{"role":"user","contents":[{"type":"text","text":"known"},' + raw + b"]}]}"
    (message,) = read(record).input
    first, second = message.contents
    assert first == TextContent("known")
    assert isinstance(second, UnknownContent)
    assert (second.raw, second.kind) == (raw, json.loads(raw).get("type", ""))
    again = encode_messages([message])
    assert raw in again
    assert decode_messages(again) == (message,)


def test_unknown_fields_do_not_hinder() -> None:
    record = record_with(
        {"type": "text", "text": "Hi", "mood": "glad"}, mood={"type": "x"}, output=[{"role": "user", "n": 1}]
    )
    turn = read(record)
    assert turn.messages == (ChatMessage("user", text="Hi"), ChatMessage("user", []))


def test_a_record_of_a_newer_version_says_so() -> None:
    with pytest.raises(SchemaVersionError, match="form 2") as caught:
        read(b'{"v":2,"input":[]}')
    assert caught.value.turn_id == "turn_1"


def test_a_record_of_a_newer_version_may_have_another_shape() -> None:
    with pytest.raises(SchemaVersionError, match="form 2"):
        read(b'{"v":2,"input":{"messages":[]},"usage":"none"}')


# --- data, and nothing but data --------------------------------------------------------------------------------


@given(json_values)
def test_look_alike_data_is_data(value: Any) -> None:
    properties = {key: value for key in LOOK_ALIKES}
    text = json.dumps({"type": "tool_call", "$type": "x", "lc": 1, "__reduce__": value}, default=str)
    message = ChatMessage(
        "tool",
        [TextContent(text), ToolCallContent(text, text, text), ToolResultContent(text, text)],
        author_name="__class__",
        message_id='"},{"',
        additional_properties=properties,
    )
    stored = encode_messages([message])
    assert decode_messages(stored) == (message,)
    assert read(encode_turn(stored, [message])).messages == (message, message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "\x7f\x85\u2028\u2029\ufeff\uffff",
        'a"\\/\b\f\n\r\t',
        "\u202eevil",
        "e\u0301 é",
        "👩\u200d🚀 \U0010ffff",
        "</script>",
        "\\ud800",
    ],
    ids=ascii,
)
def test_every_text_is_read_back_as_it_was(text: str) -> None:
    message = ChatMessage("user", text=text, author_name=text, message_id=text, additional_properties={text: text})
    assert decode_messages(encode_messages([message])) == (message,)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {None: 1},
        "\ud800",
        {"\ud800": 1},
        float("nan"),
        float("inf"),
        {1: "one"},
        b"bytes",
        {1, 2},
        datetime.date(2026, 11, 22),
    ],
    ids=lambda value: "an object" if type(value) is object else ascii(value),
)
def test_what_would_come_back_changed_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="additional_properties"):
        encode_messages([ChatMessage("user", text="Hi", additional_properties={"k": value})])


def test_properties_that_are_nested_without_end_are_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInputError):
        encode_messages([ChatMessage("user", text="Hi", additional_properties={"k": deep})])


@pytest.mark.parametrize("where", ["contents", "properties"])
def test_a_record_that_is_nested_without_end_is_damaged(where: str) -> None:
    deep = b'{"type":"x","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    deep = b"[" + deep + b"]" if where == "contents" else deep
    message = b'{"role":"user","%s":%s}' % (where.encode(), deep)
    with pytest.raises(DamagedError) as caught:
        read(b'{"v":1,"input":[' + message + b"]}")
    assert caught.value.turn_id == "turn_1"
    with pytest.raises(DamagedError):
        decode_messages(b"[" + message + b"]")


@pytest.mark.parametrize(
    "record",
    [b"", b"null", b"[]", b'"x"', b"{}", b'{"v":"1"}', b'{"v":1', b'{"v":1}}', b"\xff", b'{"v":1,"input":[{}]}'],
    ids=ascii,
)
def test_what_is_no_record_is_damaged(record: bytes) -> None:
    with pytest.raises(DamagedError, match="turn_1") as caught:
        read(record)
    assert caught.value.turn_id == "turn_1"


SOUND = encode_turn(encode_messages([ChatMessage("user", text="Hi é")]), [ChatMessage("assistant", text="Ho")])


@given(st.integers(0, len(SOUND) - 1), st.integers(1, 255), st.booleans())
@example(SOUND.index(b"user"), 128, False)
def test_a_record_with_a_changed_byte_is_a_turn_or_a_typed_error(at: int, change: int, cut: bool) -> None:
    changed = SOUND[:at] if cut else SOUND[:at] + bytes([SOUND[at] ^ change]) + SOUND[at + 1 :]
    with contextlib.suppress(DamagedError, SchemaVersionError):
        assert isinstance(read(changed), Turn)


@given(st.lists(json_values, max_size=3))
@example([5])
@example([None])
@example([{"type": 5}])
def test_parts_that_are_no_parts_are_kept_or_damage(contents: list[Any]) -> None:
    with contextlib.suppress(DamagedError):
        assert isinstance(read(record_with(*contents)), Turn)


def test_a_part_that_is_no_utf8_is_damage() -> None:
    with pytest.raises(DamagedError):
        read(b'{"v":1,"input":[{"role":"user","contents":[{"type":"new"},{"type":"text","text":"\xfe"}]}]}')


# --- the chain -------------------------------------------------------------------------------------------------

FIRST: dict[str, Any] = {
    "seq": 1,
    "turn_id": "turn_1",
    "key": None,
    "status": "completed",
    "reference": None,
    "started_us": 1,
    "ended_us": 2,
    "record": b'{"v":1,"input":[{"role":"user","contents":[{"type":"text","text":"Hi"}]}],"output":[]}',
}


def test_the_hash_is_the_one_that_is_on_disk() -> None:
    """If this fails, every stored conversation would be called damaged."""
    assert chain(ROOT, **FIRST).hex() == "b061092ba95e39d187ab1b7e2ccf98a77a2449ae910dbc5e25c46d535467f588"
    assert bytes(32) == ROOT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", 2),
        ("turn_id", "turn_2"),
        ("key", ""),
        ("key", "k"),
        ("status", "failed"),
        ("reference", ""),
        ("reference", "r"),
        ("started_us", 2),
        ("ended_us", 1),
        ("record", FIRST["record"] + b" "),
        ("record", b""),
    ],
)
def test_the_hash_covers_everything(field: str, value: object) -> None:
    assert chain(ROOT, **{**FIRST, field: value}) != chain(ROOT, **FIRST)
    assert chain(b"\x01" * 32, **FIRST) != chain(ROOT, **FIRST)


@given(
    st.lists(
        st.tuples(texts, st.none() | texts, st.none() | texts, st.binary(max_size=8)),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_no_two_turns_have_the_same_hash(turns: list[tuple[str, str | None, str | None, bytes]]) -> None:
    hashes = {
        chain(ROOT, **{**FIRST, "turn_id": turn_id, "key": key, "reference": reference, "record": record})
        for turn_id, key, reference, record in turns
    }
    assert len(hashes) == 2
