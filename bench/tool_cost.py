"""What it costs to have tools that are not called: CPU of the whole process per turn, at a short history.

    none     an agent without tools
    tools    the same with 50 tools, whose schemas are encoded once and sent with every question
    anew     the same 50 schemas passed as options, which are encoded for every question

All are measured in turns in one process against one stub in another; the figures that count are the ratios.

    python bench/tool_cost.py [--rounds N] [--tools N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from stub import StubProcess
from turn_cost import ASK, TURNS, Turn, cpu_per_turn, prepared, show

from holdfast import ChatAgent, FunctionTool, OpenAIChatClient, SQLiteStore, tool


def made(number: int) -> FunctionTool[Any, str]:
    @tool(name=f"look_up_{number}")
    def look_up(city: str, year: int = 2026, words: list[str] | None = None) -> str:
        """Look something up in a city's archive.

        Args:
            city: The city whose archive it is.
            year: The year to look in.
            words: Words that must occur.
        """
        return f"nothing about {city}"

    return look_up


async def measure(base_url: str, folder: str, given: argparse.Namespace) -> dict[str, Any]:
    tools = [made(number) for number in range(given.tools)]
    client = OpenAIChatClient("one", base_url=base_url, api_key="key")
    told = msgspec.json.decode(client.codec.tools([one.spec for one in tools]))
    stores = [SQLiteStore(os.path.join(folder, f"{name}.db")) for name in ("none", "tools", "anew")]
    agents = [
        client.create_agent(thread_store=stores[0]),
        client.create_agent(thread_store=stores[1], tools=tools),
        client.create_agent(thread_store=stores[2], extra={"tools": told}),
    ]
    threads = [await prepared(agent, 10) for agent in agents]
    found: list[list[float]] = [[], [], []]
    for round_ in range(given.rounds + 1):
        for n, agent in enumerate(agents):
            milliseconds = await cpu_per_turn(turn_of(agent, threads[n]), TURNS)
            if round_:
                found[n].append(milliseconds)
            threads[n] = await prepared(agent, 10)
    await client.aclose()
    for store in stores:
        store.close()
    none, with_tools, anew = found
    return {
        "tools": given.tools,
        "bytes": len(client.codec.tools([one.spec for one in tools])),
        "none": statistics.median(none),
        "with": statistics.median(with_tools),
        "anew": statistics.median(anew),
        "with/none": statistics.median(b / a for a, b in zip(none, with_tools, strict=True)),
        "anew/none": statistics.median(b / a for a, b in zip(none, anew, strict=True)),
    }


def turn_of(agent: ChatAgent, threads: list[str]) -> Turn:
    numbers = iter(range(10**9))

    async def turn() -> None:
        await agent.run(ASK, thread=agent.get_thread(threads[next(numbers) % len(threads)]))

    return turn


async def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--tools", type=int, default=50)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with StubProcess() as base_url, tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        row = await measure(base_url, folder, given)
    if given.json:
        print(json.dumps(row))
    else:
        show([row])


if __name__ == "__main__":
    asyncio.run(main())
