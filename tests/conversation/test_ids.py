"""Ids: any string that can be shown and written is a name; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from unicodedata import category

import hypothesis.strategies as st
import pytest
from hypothesis import given

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.ids import checked_tenant, checked_thread_id, checked_turn_id
from holdfast.testing.contracts_bench import HOSTILE_IDS, REFUSED_IDS

CHECKS = (checked_thread_id, checked_turn_id, checked_tenant)

REFUSED = ("Cc", "Cs", "Zl", "Zp")

printable = st.text(st.characters(exclude_categories=REFUSED), min_size=1, max_size=256)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", HOSTILE_IDS)
def test_a_name_that_looks_like_trouble_is_a_name(check: Callable[[object], str], name: str) -> None:
    assert check(name) is name


@given(printable)
def test_every_printable_string_is_a_name(name: str) -> None:
    assert checked_thread_id(name) is name


@pytest.mark.parametrize("name", REFUSED_IDS, ids=ascii)
def test_what_could_not_be_shown_or_written_is_refused(name: object) -> None:
    for check in (checked_thread_id, checked_turn_id):
        with pytest.raises(InvalidInputError, match=r"^A (thread|turn) id .*got .*"):
            check(name)


@given(st.text(st.characters(), max_size=300))
def test_a_string_is_a_name_or_refused_and_never_changed(name: str) -> None:
    try:
        assert checked_thread_id(name) is name
    except InvalidInputError as error:
        refusal: str | None = str(error)
    else:
        refusal = None
    good = 1 <= len(name) <= 256 and not any(category(character) in REFUSED for character in name)
    assert (refusal is None) == good
    assert refusal is None or len(refusal) < 250  # it does not repeat a long name


def test_the_default_tenant_has_an_empty_name() -> None:
    assert checked_tenant("") == ""
    for name in (None, 0, b"", "a\n"):
        with pytest.raises(InvalidInputError, match="A tenant"):
            checked_tenant(name)
