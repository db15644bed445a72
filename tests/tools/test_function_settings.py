"""Function tools: approval, and strict schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tool_calling import Place, called, time_zone

from holdfast.conversation.errors import InvalidInputError
from holdfast.ports.tools import ToolContext, ToolError
from holdfast.tools.functions import function_tool, tool


@pytest.mark.parametrize(("amount", "needed"), [(5, False), (500, True), (None, True)])
def test_a_rule_sees_the_arguments_as_the_function_would(amount: int | None, needed: bool) -> None:
    def over_100(arguments: dict[str, Any]) -> bool:
        assert set(arguments) == {"amount", "to"}
        assert isinstance(arguments["to"], Place)
        return bool(arguments["amount"] > 100)

    @tool(approval=over_100)
    def pay(context: ToolContext[None], to: Place, amount: int = 1000) -> None: ...

    arguments = {"to": {"city": "Rome"}} | ({} if amount is None else {"amount": amount})
    assert pay.needs_approval(json.dumps(arguments)) is needed


def test_a_rule_that_fails_asks_for_approval() -> None:
    def rule(arguments: dict[str, Any]) -> bool:
        raise ToolError("not even this makes it pass")

    async def later() -> bool:
        return False

    @tool(approval=rule)
    def fails() -> None: ...

    @tool(approval=lambda _: later())  # type: ignore[arg-type, return-value]
    def waits() -> None: ...

    assert fails.needs_approval("{}") is True
    assert waits.needs_approval("{}") is True


def test_no_approval_is_needed_unless_it_is_said() -> None:
    assert function_tool(time_zone).needs_approval("{}") is False


async def test_in_a_strict_tool_null_means_the_default() -> None:
    @tool(strict=True)
    def it(place: Place, n: int = 5, maybe: int | None = 7) -> Any:
        return [place.floor, n, maybe]

    parameters = it.spec.parameters
    assert it.spec.strict
    assert parameters["required"] == ["place", "n", "maybe"]
    assert parameters["properties"]["n"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}],
        "description": "(null for the default: 5)",
    }
    assert parameters["properties"]["maybe"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert await called(it, place={"city": "a", "floor": None}, n=None, maybe=None) == "[0,5,null]"


@pytest.mark.parametrize("kind", [Any, dict[str, int], list, tuple[int, str], dict])
def test_what_cannot_be_strict_is_refused(kind: Any) -> None:
    def it(a: int, options: kind) -> None: ...

    function_tool(it)
    with pytest.raises(InvalidInputError, match=r"it cannot be strict: options"):
        tool(strict=True)(it)
