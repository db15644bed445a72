"""Docstrings: the words of an author, in whatever style they were written."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.tools.docstrings import read
from holdfast.tools.functions import function_tool

GOOGLE = """
    The weather in a city.

    For up to ten days.

    Args:
        city: The city, in
            English.
        days (int): How many days.
        nobody: Has no parameter.

    Returns:
        A sentence.

    Raises:
        LookupError: No such city.
    """

NUMPY = """The weather in a city.

    For up to ten days.

    Parameters
    ----------
    city : str
        The city, in
        English.
    days : int, optional
        How many days.
    nobody
        Has no parameter.

    Returns
    -------
    str
        A sentence.
    """

SPHINX = """The weather in a city.

    For up to ten days.

    :param city: The city, in
        English.
    :param int days: How many days.
    :param nobody: Has no parameter.
    :returns: A sentence.
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_the_style_is_found_out(docstring: str, caplog: pytest.LogCaptureFixture) -> None:
    def get_weather(city: str, days: int = 1) -> None: ...

    get_weather.__doc__ = docstring
    with caplog.at_level(logging.DEBUG):
        spec = function_tool(get_weather).spec
    assert spec.description == "The weather in a city.\n\nFor up to ten days."
    assert spec.parameters["properties"]["city"]["description"] == "The city, in English."
    assert spec.parameters["properties"]["days"]["description"] == "How many days."
    assert set(spec.parameters["properties"]) == {"city", "days"}
    assert not caplog.records


def test_one_line_about_a_parameter_is_enough() -> None:
    assert read("Go.\n\n:param city: Where to.").parameters == {"city": "Where to."}
    assert read("Go.\n\nArgs:\n    city: Where to.").parameters == {"city": "Where to."}


def test_words_under_a_heading_of_ones_own_are_kept() -> None:
    words = read("Go.\n\nThere are:\n    - slow trains\n    - fast trains\n\nArgs:\n    city: Where to.")
    assert "There are:" in words.description
    assert "- fast trains" in words.description
    assert "Where to" not in words.description


@pytest.mark.parametrize("docstring", [None, "", "   \n "])
def test_no_docstring_is_no_description(docstring: str | None) -> None:
    words = read(docstring)
    assert (words.description, words.parameters) == ("", {})


_LINES = st.lists(
    st.sampled_from(["Args:", "    a: b", "Parameters", "----------", "a : int", ":param a: b", ":return", "", "Note:"])
    | st.text(max_size=12),
    max_size=12,
)


@given(_LINES)
def test_no_docstring_keeps_a_function_from_being_a_tool(lines: list[str]) -> None:
    words = read("\n".join(lines))
    assert all(isinstance(text, str) for text in (words.description, *words.parameters.values()))
