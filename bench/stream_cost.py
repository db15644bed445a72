"""What a streamed chunk costs: CPU of the whole process per chunk.

    bare       aiohttp, and a split of what it reads into events; nothing is decoded
    holdfast   OpenAIChatClient through agent.run_stream, to the last update, thread and turn included

`burst`: the service sends everything at once. `natural`: it sends as it makes them, so that some come together.
The figure that counts is the ratio; the bytes come from a stub in another process.

    python bench/stream_cost.py [--rounds N] [--chunks N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
from stub import StubProcess

from holdfast import OpenAIChatClient, SQLiteStore

STREAMS = 10  # measured in one block


async def bare(session: aiohttp.ClientSession, url: str, model: str) -> int:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True, "model": model}).encode()
    events, rest = 0, b""
    async with session.post(url, data=body) as response:
        async for data in response.content.iter_any():
            *whole, rest = (rest + data).split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: "):
                    events += 1
    return events


async def cpu_per_chunk(stream: Callable[[], Awaitable[int]], chunks: int) -> float:
    """Microseconds of CPU of this process per chunk."""
    began = time.process_time()
    for _ in range(STREAMS):
        seen = await stream()
        if seen < chunks:
            raise SystemExit(f"only {seen} of {chunks} chunks came")
    return (time.process_time() - began) / STREAMS / chunks * 1e6


async def measure(base_url: str, folder: str, kind: str, chunks: int, rounds: int) -> dict[str, Any]:
    model = f"{kind}:{chunks}"
    store = SQLiteStore(os.path.join(folder, f"{kind}.db"))
    client = OpenAIChatClient(model, base_url=base_url, api_key="key")
    agent = client.create_agent(thread_store=store)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600),
        headers={"Authorization": "Bearer key", "Content-Type": "application/json"},
    ) as session:

        async def split() -> int:
            return await bare(session, base_url + "/chat/completions", model)

        async def ours() -> int:
            words = 0
            async for update in agent.run_stream("x", thread=agent.get_new_thread()):
                if update.text:
                    words += 1
            return words

        found: dict[str, list[float]] = {"bare": [], "holdfast": []}
        for stream in (split, ours):
            await cpu_per_chunk(stream, chunks)
        for _ in range(rounds):
            for name, stream in (("bare", split), ("holdfast", ours)):
                found[name].append(await cpu_per_chunk(stream, chunks))
    await client.aclose()
    store.close()
    ratio = statistics.median(h / b for b, h in zip(found["bare"], found["holdfast"], strict=True))
    return {"kind": kind, **{name: statistics.median(values) for name, values in found.items()}, "ratio": ratio}


async def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--chunks", type=int, default=1000)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    rows = []
    with StubProcess() as base_url, tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        for kind in ("burst", "natural"):
            print(f"{kind} ...", file=sys.stderr)
            rows.append(await measure(base_url, folder, kind, given.chunks, given.rounds))
    if given.json:
        print(json.dumps(rows))
        return
    print(f"{'':>10}{'bare, us':>12}{'holdfast, us':>14}{'ratio':>8}")
    for row in rows:
        print(f"{row['kind']:>10}{row['bare']:>12.2f}{row['holdfast']:>14.2f}{row['ratio']:>8.2f}")


if __name__ == "__main__":
    asyncio.run(main())
