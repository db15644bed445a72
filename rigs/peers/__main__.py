"""The command: installs the peers, runs the probes, prints the table.

    python -m rigs.peers --times 10 [--seed N] [--folder F] [--only holdfast,langgraph] [--probe two-tasks,cost]

Rule of this file: one fault at a time, one subject at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigs.peers.callers import Subject
from rigs.peers.environments import python_for
from rigs.peers.judge import Answers
from rigs.peers.probes import PROBES, Probe
from rigs.peers.stage import Stage
from rigs.peers.table import Results, as_json, markdown, unseen


@dataclass(frozen=True)
class Entrant:
    """A column of the table: a subject with its settings."""

    title: str
    peer: str
    settings: Mapping[str, str]


ENTRANTS = (
    Entrant("LangGraph", "langgraph", {"durability": "async"}),  # its default
    Entrant("LangGraph, durability=sync", "langgraph", {"durability": "sync"}),
    Entrant("OpenAI Agents", "openai_agents", {}),
    Entrant("holdfast", "holdfast", {}),
)


@dataclass(frozen=True)
class Campaign:
    """What was asked for."""

    folder: Path
    times: int
    seed: str
    probes: Sequence[Probe]

    async def of(self, entrant: Entrant, subject: Subject) -> Results:
        """All probes against one subject."""
        found: dict[str, Sequence[Answers] | str] = {}
        for probe in self.probes:
            if probe.needs and probe.needs not in subject.able:
                found[probe.name] = probe.otherwise
                continue
            print(f"{entrant.title}: {probe.title}", file=sys.stderr, flush=True)
            found[probe.name] = [await self._repeat(entrant, subject, probe, n) for n in range(self.times)]
        return found

    async def _repeat(self, entrant: Entrant, subject: Subject, probe: Probe, n: int) -> Answers:
        home = self.folder / "evidence" / entrant.title.replace(" ", "-") / f"{probe.name}-{n}"
        home.mkdir(parents=True, exist_ok=True)
        for old in home.iterdir():
            old.unlink()
        chance = random.Random(f"{self.seed}/{probe.name}/{n}")
        stage = Stage(subject, entrant.settings, home / "chat.db", chance)
        try:
            answers = await probe.run(stage)
        finally:
            await stage.clear()
            lines = [json.dumps({"process": n, **event}) for n, told in enumerate(stage.evidence()) for event in told]
            (home / "events.jsonl").write_text("\n".join(lines))
        (home / "answers.json").write_text(json.dumps({question.text: value for question, value in answers.items()}))
        return answers


def run(campaign: Campaign, entrants: Sequence[Entrant]) -> tuple[dict[str, Results], dict[str, str]]:
    """The results of each entrant by its title, and the versions of all packages."""
    results: dict[str, Results] = {}
    versions: dict[str, str] = {}
    for entrant in entrants:
        python = python_for(entrant.peer, campaign.folder)
        with Subject(f"rigs.peers.worker_{entrant.peer}", python, campaign.folder / f"{entrant.peer}.log") as subject:
            versions |= subject.versions
            results[entrant.title] = asyncio.run(campaign.of(entrant, subject))
    return results, versions


def main() -> int:
    options = _options()
    wanted = options.probe.split(",") if options.probe else [probe.name for probe in PROBES]
    peers = options.only.split(",") if options.only else [entrant.peer for entrant in ENTRANTS]
    entrants = [entrant for entrant in ENTRANTS if entrant.peer in peers]
    seed = options.seed or f"{random.SystemRandom().getrandbits(32)}"
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        folder = Path(options.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(folder, options.times, seed, [probe for probe in PROBES if probe.name in wanted])
        results, versions = run(campaign, entrants)
    told = {"seed": seed, "times": options.times, "versions": {**versions, **_machine()}}
    if options.json:
        print(json.dumps({**told, "results": as_json(results)}))
        return 0
    print(markdown(campaign.probes, results), unseen(campaign.probes, results), sep="\n\n", end="\n\n")
    print(", ".join(f"{name} {version}" for name, version in told["versions"].items()))
    chosen = "".join(f" --{name} {value}" for name in ("only", "probe") if (value := getattr(options, name)))
    print(f"python -m rigs.peers --times {options.times} --seed {seed}{chosen}")
    return 0


def _machine() -> dict[str, Any]:
    # The SQLite of the standard library, which both peers use; holdfast brings its own in apsw.
    return {"Python": platform.python_version(), "SQLite of this Python": sqlite3.sqlite_version}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rigs.peers", description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="repeats of each probe (default: 10)")
    parser.add_argument("--seed", default="", help="repeats a campaign (default: a random one, which is printed)")
    parser.add_argument("--folder", default="", help="for environments and evidence (default: a temporary one)")
    parser.add_argument("--only", default="", help="subjects, with commas: langgraph, openai_agents, holdfast")
    parser.add_argument("--probe", default="", help="probes, with commas: " + ", ".join(p.name for p in PROBES))
    parser.add_argument("--json", action="store_true", help="print the answers of every repeat as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
