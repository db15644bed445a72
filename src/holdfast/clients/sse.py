"""SSE: the bytes of a stream in, the `data` of its events out. Pure: it never sees a connection.

Rule of this file: however a stream is cut into reads, the same events come out, in the same order.

Names, ids and retry times of events are passed over: no chat service says anything in them that its data does
not say too.
"""

from __future__ import annotations

LIMIT = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventTooLongError(ValueError):
    """An event is longer than the limit. `before` holds the data of the events that came before it."""

    def __init__(self, limit: int, before: list[bytes]) -> None:
        super().__init__(f"An event of the stream is longer than {limit} bytes.")
        self.before = before


class EventParser:
    """One stream. `feed` takes what was read; `flush` ends it, and gives what was not ended by a blank line.

    An event's length is that of all its lines. Both raise EventTooLongError for one that is over the limit.
    """

    __slots__ = ("_after_cr", "_began", "_limit", "_rest", "_waiting")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._began = False
        self._after_cr = False
        self._rest: list[bytes] = []  # pieces of the event that has not ended
        self._waiting = 0  # their length

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf_only(data)
        if self._waiting:
            if b"\n" not in data:
                return self._wait(data)  # nothing ends here: a long event is not joined again for each read
            self._rest.append(data)
            data = b"".join(self._rest)
            self._rest.clear()
            self._waiting = 0
        if not self._began:
            if len(data) < 3 and _BOM.startswith(data):
                return self._wait(data)
            self._began = True
            data = data.removeprefix(_BOM)
        return self._plain(data) or self._any(data)

    def _plain(self, data: bytes) -> list[bytes] | None:
        """What services send: lines that begin with "data: ", each followed by a blank one. None if it is not that."""
        end = data.rfind(b"\n\n")
        if end < 6 or end > self._limit or data[:6] != b"data: ":
            return None
        tail = data[end + 2 :]
        # The separator takes the next event's prefix with it, which saves a slice for each event. Two line ends
        # for each event mean that none of them holds another line.
        found = data[6:end].split(b"\n\ndata: ")
        if data.count(b"\n") - tail.count(b"\n") != 2 * len(found) or b"" in found:
            return None
        if tail:
            self._wait(tail, found)
        return found

    def _any(self, data: bytes) -> list[bytes]:
        """Whatever the standard allows."""
        events = data.split(b"\n\n")
        tail = events.pop()
        found: list[bytes] = []
        for event in events:
            if len(event) > self._limit:
                raise EventTooLongError(self._limit, found)
            content = _data_of(event)
            if content:
                found.append(content)
        return self._wait(tail, found)

    def _wait(self, tail: bytes, found: list[bytes] | None = None) -> list[bytes]:
        found = [] if found is None else found
        if tail:
            self._rest.append(tail)
            self._waiting += len(tail)
            # One more, for the line end that may be the first half of the blank line.
            if self._waiting > self._limit + 1:
                raise EventTooLongError(self._limit, found)
        return found

    def flush(self) -> list[bytes]:
        """The data of an event that was not ended by a blank line, if there is one."""
        event = b"".join(self._rest).removesuffix(b"\n")
        self._rest.clear()
        self._waiting = 0
        if len(event) > self._limit:
            raise EventTooLongError(self._limit, [])
        content = _data_of(event)
        return [content] if content else []

    def _with_lf_only(self, data: bytes) -> bytes:
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]  # the second half of a line end whose first half ended a line already
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data_of(event: bytes) -> bytes:
    """The data of one event, given as its lines; b"" if it has none."""
    if b"\n" not in event and event[:5] == b"data:":
        return event[6:] if event[5:6] == b" " else event[5:]
    lines: list[bytes] = []
    for line in event.split(b"\n"):
        if line[:5] == b"data:":
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)
