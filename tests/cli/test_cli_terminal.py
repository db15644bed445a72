"""Making text safe: nothing that a terminal obeys is left, whatever came and however it was cut."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.terminal import Paint, cut, one_line, safe, safe_json, wants_colours, width

BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Any text, with what is dangerous more often than chance would have it.
NASTY = st.sampled_from([*map(chr, range(0xA0)), *BIDI, "\x1b[31m", "\x9b2J", "\r", "\ud83d", "\u200b", "\u2028", "é"])
texts = st.lists(NASTY | st.characters(exclude_categories=()), max_size=30).map("".join)


@given(texts)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    for character in safe(text):
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert character not in BIDI
    safe(text).encode()


@given(texts, texts)
def test_pieces_are_as_safe_as_the_whole(one: str, other: str) -> None:
    assert safe(one) + safe(other) == safe(one + other)
    assert safe(safe(one)) == safe(one)


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Mn", "Mc", "Zs"))))
def test_what_is_harmless_stays(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "␛]0;owned␇"),
        ("\x9b31mred", "\ufffd31mred"),
        ("good\revil", "goodevil"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\x7f\x00", "␡␀"),
        ("abc\u202eexe.txt", "abcexe.txt"),
        ("👩\u200d💻 می\u200cخواهم", "👩\u200d💻 می\u200cخواهم"),
        ("half \ud83d", "half \ufffd"),
        ("one\u2028two", "one\ntwo"),
        ("hidden\U000e0041\U000e0042", "hidden"),
    ],
)
def test_how_it_is_shown(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5))
def test_json_means_the_same_and_shows_nothing_else(value: object) -> None:
    written = safe_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(written) == json.loads(json.dumps(value))
    assert safe(written) == written


@given(texts, st.integers(1, 40))
def test_a_row_fits(text: str, columns: int) -> None:
    line = one_line(text)
    assert "\n" not in line
    assert width(cut(line, columns)) <= columns
    assert cut(line, 10_000) == line


def test_widths() -> None:
    assert width("abc") == 3
    assert width("海賊") == 4
    assert width("e\u0301") == 1
    assert cut("海賊の話", 5) == "海賊…"


@pytest.mark.parametrize(
    ("environ", "is_terminal", "wanted"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
    ],
)
def test_colours(environ: dict[str, str], is_terminal: bool, wanted: bool) -> None:
    assert wants_colours(environ, is_terminal=is_terminal) is wanted
    assert ("\x1b" in Paint(wanted).dim("text")) is wanted
