"""Calls: the tool calls of an answer, shown while they are made: a line when one is begun, a line with what came of it.

Rule of this file: a line is a line, whatever is in it; what a model or a tool wrote is made safe and cut here. What
somebody is asked to allow is the exception: that is shown whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from holdfast.cli.screen import Screen
from holdfast.cli.terminal import cut, one_line, safe, safe_json, width
from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.messages import ToolCallContent
from holdfast.conversation.updates import AgentRunResponseUpdate, ToolCallUpdate, ToolResultUpdate

_IN_A_PIPE = 200


class _Open(NamedTuple):
    """A call that has no result yet."""

    call_id: str
    name: str
    began: float


class CallLines:
    """What there is to see of the calls of one run, as its updates come.

    `earlier` are calls that were shown before: of them a run that goes on tells only what came of them. Results come in
    the order of the calls; where a service gave a call no id, or one that was taken, that says whose it is.
    """

    def __init__(
        self,
        screen: Screen,
        earlier: Iterable[ToolCallContent] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen = screen
        self._monotonic = monotonic
        now = monotonic()
        self._open = [_Open(call.call_id, call.name, now) for call in earlier]
        self._coming: list[ToolCallUpdate] = []  # of the call that is being written

    def take(self, update: AgentRunResponseUpdate) -> bool:
        """See to an update; True if something was shown."""
        if isinstance(update, ToolCallUpdate):
            is_next = bool(self._coming) and update.index != self._coming[0].index
            shown = self._show_call() if is_next else False
            self._coming.append(update)
            return shown
        shown = self._show_call()
        if isinstance(update, ToolResultUpdate):
            self._show_result(update)
            return True
        return shown

    def _show_call(self) -> bool:
        if not self._coming:
            return False
        first, arguments = self._coming[0], "".join(piece.arguments for piece in self._coming)
        self._coming = []
        self._open.append(_Open(first.call_id, first.name, self._monotonic()))
        self._line(f"calls {one_line(first.name)}", one_line(arguments))
        return True

    def _show_result(self, update: ToolResultUpdate) -> None:
        call = next((call for call in self._open if call.call_id == update.call_id), None)
        call = call or (self._open[0] if self._open else _Open("", "the tool", self._monotonic()))
        self._open = [other for other in self._open if other is not call]
        head = f"{one_line(call.name)} {'failed' if update.is_error else 'gave'}:"
        taken = f"({self._monotonic() - call.began:.1f} s)"
        self._line(head, one_line(update.result) or "nothing", taken, alarm=update.is_error)

    def _line(self, head: str, words: str, tail: str = "", *, alarm: bool = False) -> None:
        """One line: its head and its tail whole, and of the words between them as much as fits."""
        columns = shutil.get_terminal_size().columns if self._screen.beside.isatty() else _IN_A_PIPE
        room = max(20, columns - width(head) - width(tail) - 5)
        line = " ".join(part for part in (head, cut(words, room), tail) if part)
        paint = self._screen.paint.warning if alarm else self._screen.paint.dim
        self._screen.line(paint(f"  {line}"))


def request_lines(request: ApprovalRequest) -> list[str]:
    """What somebody is asked to allow, in safe lines: nothing is left out, and nothing in it can pass for ours."""
    until = f" until {request.expires_at:%Y-%m-%d %H:%M:%S} UTC" if request.expires_at is not None else ""
    who = f"{one_line(request.agent)} wants to call" if request.agent else "A call of"
    lines = safe(safe_json(request.arguments)).splitlines() or ["(no arguments)"]
    return [f"{who} {one_line(request.tool)}, which must be allowed{until}:", *(f"    {line}" for line in lines)]


def request_line(request: ApprovalRequest) -> str:
    """The same in one line, cut."""
    return cut(f"{one_line(request.tool)} {one_line(request.arguments)}", _IN_A_PIPE)
