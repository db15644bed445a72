"""Plants for the rig of tools: faults on the rig's own side that its judge must report.

Rule of this file: a plant changes a worker, its store or its tools, never the library; the judge is told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.ports.stores import OpenRun, Ready
from rigs.tools_stage import Till
from rigs.tools_workers import ToolStore, ToolWorker


class _ForgetsStarts(ToolStore):
    """Says that the start of calls is written down, and writes nothing."""

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Any:
        return Ready(None) if durable else super().journal(run, records)


class _ForgetsResults(ToolStore):
    """Says that results are written down, and writes nothing."""

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Any:
        return super().journal(run, records, durable=True) if durable else _as_if_noted(self, run, records)


def _as_if_noted(store: ToolStore, run: OpenRun, records: Sequence[bytes]) -> Any:
    store.noted(run, records)
    return Ready(None)


class _LosesWhatWaits(ToolStore):
    """Ends what is to wait."""

    def park(self, run: OpenRun, records: Sequence[bytes]) -> Any:
        return self.seal(run, ())


class _Twice(Till):
    """Does everything twice."""

    times = 2


class _Idle(Till):
    """Says that it has done what it has not."""

    times = 0


class _StartsForgotten(ToolWorker):
    store_class = _ForgetsStarts


class _ResultsForgotten(ToolWorker):
    store_class = _ForgetsResults


class _WaitingLost(ToolWorker):
    store_class = _LosesWhatWaits


class _DoneTwice(ToolWorker):
    till_class = _Twice


class _NotDone(ToolWorker):
    till_class = _Idle


class _Impatient(ToolWorker):
    """Allows by itself what others were to allow: its answers are not written down."""

    async def _answer(self, talker: int, thread_id: str, answers: Sequence[Any], *, forged: bool = False) -> None:
        if forged:
            return
        by = answers[0].by
        await self._told(talker, "answers", by, thread_id, self._run(thread_id, list(answers)))


PLANTS: Mapping[str, type[ToolWorker]] = {
    "none": ToolWorker,
    "starts-forgotten": _StartsForgotten,
    "results-forgotten": _ResultsForgotten,
    "waiting-lost": _WaitingLost,
    "done-twice": _DoneTwice,
    "not-done": _NotDone,
    "unsaid-leave": _Impatient,
}
