"""Two processes, one thread: how long after one's seal the other starts, and whether anything is lost or interleaved.

Each process runs turns on the same thread without a pause, so that the other always waits. The clocks agree, for
Linux's monotonic clock is the machine's.

    python bench/handover.py [--turns 200] [--processes 2] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient

THINKING = 0.003  # seconds that the model takes


async def talk(path: str, name: str, turns: int) -> None:
    """One process: run turns; print when each was begun, when the model was asked, and when it was recorded."""
    store = SQLiteStore(path)
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    thread = agent.get_thread("common", create=True)
    await thread.turns()
    print("ready", flush=True)
    sys.stdin.readline()
    rows = []
    for n in range(turns):
        asked: list[float] = []

        async def think(asked: list[float] = asked) -> None:
            asked.append(time.monotonic())
            await asyncio.sleep(THINKING)

        client._answers = [[think, f"answer {name} {n}"]]
        began = time.monotonic()
        response = await agent.run(f"{name} {n}", thread=thread)
        rows.append((response.turn_id, began, asked[0], time.monotonic()))
    print(json.dumps(rows), flush=True)
    store.close()


def measure(turns: int, processes: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        path = os.path.join(folder, "threads.db")
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--talk", path, f"p{n}", "--turns", str(turns)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(processes)
        ]
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        found = {}
        for name, process in enumerate(started):
            output, _ = process.communicate(timeout=600)
            found[f"p{name}"] = json.loads(output.splitlines()[-1])
        return judged(path, found)


def judged(path: str, found: dict[str, list[tuple[str, float, float, float]]]) -> dict[str, object]:
    store = SQLiteStore(path)
    agent = ScriptedChatClient().create_agent(thread_store=store)

    async def read() -> list[tuple[str, str]]:
        turns = await agent.get_thread("common").turns()
        return [(turn.id, turn.output[0].text) for turn in turns]

    log = asyncio.run(read())
    store.close()
    told = {row[0]: (name, *row[1:]) for name, rows in found.items() for row in rows}
    gaps, overtaken, interleaved = [], 0, 0
    for (before, _), (after, _) in itertools.pairwise(log):
        if told[after][2] < told[before][2]:
            interleaved += 1
        if told[before][0] != told[after][0]:
            gaps.append((told[after][2] - told[before][3]) * 1e3)
    for _, rows in found.items():
        mine = [row[0] for row in rows]
        if [turn_id for turn_id, _ in log if turn_id in set(mine)] != mine:
            overtaken += 1
    return {
        "turns": len(log),
        "lost": len(told) - len(log),
        "interleaved": interleaved,
        "out of order": overtaken,
        "hand-overs": len(gaps),
        "ms p50": round(statistics.median(gaps), 2),
        "ms p95": round(sorted(gaps)[int(len(gaps) * 0.95)], 2),
        "ms max": round(max(gaps), 2),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--turns", type=int, default=200, help="of each process")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--json", action="store_true")
    options.add_argument("--talk", nargs=2, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.talk:
        asyncio.run(talk(*given.talk, given.turns))
        return
    found = measure(given.turns, given.processes)
    print(json.dumps(found) if given.json else "\n".join(f"{name:>14}  {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
