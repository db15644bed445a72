"""The front door: what is offered can be had, what can be had is offered, and looking at it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import holdfast
from holdfast.conversation import errors


def test_all_is_what_can_be_imported() -> None:
    assert holdfast.__all__ == sorted(set(holdfast.__all__))
    for name in holdfast.__all__:
        assert getattr(holdfast, name).__name__ == name or name == "ChatClient"
    assert set(dir(holdfast)) == {*holdfast.__all__, "__version__"}


def test_what_type_checkers_see_is_the_same() -> None:
    import ast
    from pathlib import Path

    tree = ast.parse(Path(holdfast.__file__).read_text())
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.names[0].name: node.module for node in guard.body if isinstance(node, ast.ImportFrom)}
    assert seen == holdfast._HOME_OF


def test_every_error_is_offered_and_drawn_in_the_tree() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.HoldfastError)
    }
    assert ours <= set(holdfast.__all__)
    assert errors.__doc__ is not None
    for name in ours:
        assert f" {name}" in errors.__doc__


def test_an_unknown_name_says_so() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = holdfast.Nonsense


def _imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_front_door_alone_imports_no_library() -> None:
    assert not _imported_by("import holdfast") & {"msgspec", "aiohttp", "apsw", "asyncio", "pydantic"}


def test_what_a_web_handler_imports_brings_no_http_library() -> None:
    loaded = _imported_by("from holdfast import ChatAgent, OpenAIChatClient, SQLiteStore")
    assert not loaded & {"aiohttp", "pydantic", "httpx", "http.client"}
