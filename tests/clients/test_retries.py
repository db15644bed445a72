"""Retries: what is tried again, and after how long."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.clients.retries import Fault, asked_wait, may_pass, pause
from holdfast.conversation.errors import ServiceError
from holdfast.testing.runtime import SeededRuntime

NOW_US = 1_445_412_480_000_000  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_pass(status: int) -> None:
    assert may_pass(status, {})
    assert not may_pass(status, {"x-should-retry": "false"})


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422, 425])
def test_what_will_not(status: int) -> None:
    assert not may_pass(status, {})
    assert may_pass(status, {"x-should-retry": "true"})
    assert not may_pass(status, {"x-should-retry": "perhaps"})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0),
        ({"retry-after": "Wed, 99 Oct 2015 07:27:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Foo 2015 07:27:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "in a while"}, None),
    ],
)
def test_how_long_the_service_asks_us_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, NOW_US) == seconds


def fault(again: bool = True, **facts: Any) -> Fault:
    return Fault(ServiceError("x", **facts), again=again)


def test_pauses_grow_and_differ_and_have_an_end() -> None:
    runtime = SeededRuntime(1)
    for tries, longest in ((0, 0.5), (1, 1.0), (2, 2.0), (4, 8.0), (9, 8.0)):
        pauses = {pause(fault(), tries, runtime) for _ in range(20)}
        assert all(found is not None and longest / 2 <= found <= longest for found in pauses)
        assert len(pauses) > 10


def test_the_service_is_obeyed_unless_it_asks_for_too_much() -> None:
    runtime = SeededRuntime(1)
    assert pause(fault(retry_after=0.0), 0, runtime) == 0
    assert pause(fault(retry_after=60.0), 0, runtime) == 60
    assert pause(fault(retry_after=61.0), 0, runtime) is None
    assert pause(fault(again=False, retry_after=1.0), 0, runtime) is None
