"""The journal of a stand-in: what it was asked, what it answered, and how that ended.

Rule of this file: what is written down may be printed in a test's output, so no key is in it.
It is written by the server's loop and may be read, and waited on, from any thread or loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Ending: TypeAlias = Literal["complete", "cut", "disconnected"]

SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"))


@dataclass(slots=True, eq=False)
class RecordedRequest:
    """One request as it came over the wire, and what became of it.

    `headers` have lower-case names, with keys masked. `json` is the parsed body (None if there is none; then
    `json_fault` says why, unless the body is empty). `at` is the time of arrival in seconds since the service
    started. `status` is None until the answer's headers are sent. `refusal` is the message with which the service
    refused the request by its own rules; it is None for failures that were scripted.
    `ending` is None while the answer is under way, then "complete", "cut" (by the script, or because the service
    stopped) or "disconnected" (the client went away before all was sent).
    """

    number: int
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    json: Any = field(repr=False)
    json_fault: str | None
    at: float
    request_id: str
    status: int | None = None
    refusal: str | None = None
    ending: Ending | None = None

    @property
    def disconnected(self) -> bool:
        """True if the client went away before all was sent."""
        return self.ending == "disconnected"

    def summary(self) -> str:
        """One line about the request, for messages."""
        told = f"{self.status or 'no answer yet'}" + (f", {self.ending}" if self.ending else "")
        return f"#{self.number} {self.method} {self.path} ({told})" + (f": {self.refusal}" if self.refusal else "")


def masked_key(key: str) -> str:
    """A key as it may be shown: its ends if it is long, otherwise nothing of it."""
    return f"{key[:3]}***{key[-4:]}" if len(key) >= 16 else "***"


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with lower-case names and without secrets."""
    shown: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        if name in SECRET_HEADERS:
            scheme, space, key = value.rpartition(" ")
            value = scheme + space + masked_key(key)
        shown[name] = value
    return shown


class Journal:
    """The records in order of arrival, and the means to wait for them.

    `keep` bounds how many are kept, the newest ones; None keeps all. `arrived` counts all.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.records: list[RecordedRequest] = []
        self.arrived = 0
        self._under_way = 0
        self._keep = keep
        self._changed = threading.Condition()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def idle(self) -> bool:
        """True if no answer is under way."""
        return self._under_way == 0

    def add(self, record: RecordedRequest) -> None:
        """Write a request down that has come in whole."""
        with self._changed:
            self.records.append(record)
            if self._keep is not None and len(self.records) > self._keep:
                del self.records[: len(self.records) - self._keep]
            self.arrived += 1
            self._under_way += 1
            self._announce()

    def end(self, record: RecordedRequest, ending: Ending) -> None:
        """Write down how an answer ended; only the first ending counts."""
        with self._changed:
            if record.ending is None:
                record.ending = ending
                self._under_way -= 1
                self._announce()

    def _announce(self) -> None:
        self._changed.notify_all()
        for event, loop in self._waiting.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait in a running loop until `ready()`; TimeoutError says what was waited for and what had come."""
        event = asyncio.Event()
        with self._changed:
            self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while not ready():
                    await event.wait()
                    event.clear()
        except TimeoutError:
            raise TimeoutError(self._missed(timeout, what)) from None
        finally:
            with self._changed:
                del self._waiting[event]

    def block(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        """The same for code without a loop: blocks the calling thread."""
        with self._changed:
            if not self._changed.wait_for(ready, timeout):
                raise TimeoutError(self._missed(timeout, what))

    def _missed(self, timeout: float, what: str) -> str:
        seen = "; ".join(record.summary() for record in self.records[-5:]) or "nothing"
        return f"Waited {timeout:g} s for {what}; {self.arrived} came, last: {seen}."
