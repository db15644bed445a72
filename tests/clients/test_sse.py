"""The SSE parser: however a stream is cut, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.clients.sse import EventParser, EventTooLongError


def parsed(*reads: bytes, limit: int = 1 << 20) -> list[bytes]:
    parser = EventParser(limit)
    found: list[bytes] = []
    for read in reads:
        found += parser.feed(read)
    return found + parser.flush()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: {"a":1}\n\ndata: {"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
        (b"data:tight\n\ndata:  two spaces\n\n", [b"tight", b" two spaces"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: one\ndata: two\ndata\ndata:\n\n", [b"one\ntwo\n\n"]),
        (b": a comment\n\n: another\ndata: a\n: in between\n\n", [b"a"]),
        (b"event: error\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"\n\n\ndata: a\n\n", [b"a"]),
        (b"data: \n\ndata: a\n\ndata:\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: \xef\xbb\xbfa\n\n", [b"\xef\xbb\xbfa"]),
        (b"data: not ended", [b"not ended"]),
        (b"data: not ended\n", [b"not ended"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"dataset: a\n\ndata : b\n\n data: c\n\n", []),
        (b"data: caf\xc3\xa9 \xf0\x9f\xa6\x9c\n\n", ["café 🦜".encode()]),
        (b"", []),
        (b"\n", []),
        (b"\xef", []),
    ],
)
def test_what_the_standard_says(stream: bytes, events: list[bytes]) -> None:
    assert parsed(stream) == events
    assert parsed(*[stream[n : n + 1] for n in range(len(stream))]) == events


FIELDS = [b"data: ", b"data:", b"data", b": ", b":", b"event: x", b"id: 1", b"data: x\n\n", b"data: x\n\n"]
ENDS = [b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n"]
CONTENTS = [b"{}", b'{"a":"b"}', b" ", b"\xef\xbb\xbf", b"\xf0\x9f\xa6\x9c", b"[DONE]", b"\xff"]
pieces = st.sampled_from([*FIELDS, *ENDS, *CONTENTS])
streams = st.lists(pieces, max_size=40).map(b"".join)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(marks)]


def by_the_book(stream: bytes) -> list[bytes]:
    """The standard's own procedure, line by line, and slow."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*lines, b""]:  # the last event is taken even if no blank line ends it
        if not line:
            if b"\n".join(data):
                events.append(b"\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return events


@given(streams, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cut_of_any_stream_gives_the_events_of_the_standard(stream: bytes, places: list[int]) -> None:
    assert parsed(*cut(stream, places)) == by_the_book(stream)


def until_too_long(reads: list[bytes], limit: int) -> tuple[list[bytes], bool]:
    parser = EventParser(limit)
    found: list[bytes] = []
    try:
        for read in reads:
            found += parser.feed(read)
        found += parser.flush()
    except EventTooLongError as error:
        return found + error.before, True
    return found, False


@given(streams, st.lists(st.integers(0, 10_000), max_size=12), st.integers(6, 30))
def test_the_limit_does_not_depend_on_the_cut(stream: bytes, places: list[int], limit: int) -> None:
    # A byte order mark and the halves of CRLF are not counted, so they are left out here.
    stream = stream.replace(b"\xef\xbb\xbf", b"").replace(b"\r", b"")
    assert until_too_long(cut(stream, places), limit) == until_too_long([stream], limit)


def test_an_event_over_the_limit_is_refused_while_it_comes_in() -> None:
    parser = EventParser(limit=1000)
    assert parser.feed(b"data: a\n\ndata: ") == [b"a"]
    for _ in range(9):
        assert parser.feed(b"x" * 100) == []
    with pytest.raises(EventTooLongError, match="1000 bytes") as caught:
        parser.feed(b"x" * 100)
    assert caught.value.before == []


def test_what_came_before_an_event_that_is_too_long_is_kept() -> None:
    with pytest.raises(EventTooLongError) as caught:
        EventParser(limit=20).feed(b"data: a\n\ndata: " + b"x" * 50 + b"\n\n")
    assert caught.value.before == [b"a"]


def test_a_large_event_in_many_reads_is_not_joined_again_for_each() -> None:
    parser = EventParser()
    for _ in range(8000):
        assert parser.feed(b"data: x" if _ == 0 else b"y" * 1000) == []
    (event,) = parser.feed(b"\n\n")
    assert len(event) == 1 + 7999 * 1000
