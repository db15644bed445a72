"""Names of MCP tools: whatever a server calls them, services take what they are called here, each another."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tools.mcp_tools import names_here

ANY = st.lists(st.text(st.sampled_from("ab_.- /é\U0001f600"), max_size=70), unique=True, max_size=12)


@given(names=ANY, prefix=st.sampled_from([None, "a", "a_"]))
def test_services_take_them_and_no_two_are_the_same(names: list[str], prefix: str | None) -> None:
    here = names_here(names, prefix)
    assert list(here) == names
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in here.values())
    assert len(set(here.values())) == len(names)


@given(names=ANY)
def test_the_order_of_the_list_means_nothing(names: list[str]) -> None:
    assert names_here(names[::-1], None) == names_here(names, None)


@pytest.mark.parametrize(
    ("names", "prefix", "here"),
    [
        (["get_weather", "a-b"], None, ["get_weather", "a-b"]),
        (["get.weather"], None, ["get_weather"]),
        (["get.weather"], "p", ["p__get_weather"]),
        (
            ["get.weather", "get_weather"],
            None,
            ["get_weather_" + hashlib.sha256(b"get.weather").hexdigest()[:8], "get_weather"],
        ),
        (["x" * 70], None, ["x" * 64]),
    ],
    ids=["its own", "mapped", "with a prefix", "clashing", "too long"],
)
def test_a_name_is_near_its_own(names: list[str], prefix: str | None, here: list[str]) -> None:
    assert list(names_here(names, prefix).values()) == here


def test_a_name_that_was_worked_out_to_be_anothers_is_not() -> None:
    mark = hashlib.sha256(b"a.b").hexdigest()[:8]
    names = ["a.b", "a_b", f"a_b_{mark}"]
    here = names_here(names, None)
    assert len(set(here.values())) == 3
    assert here[f"a_b_{mark}"] == f"a_b_{mark}"
