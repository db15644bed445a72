"""The rig of flipped bits, short: five hundred flips; and the proof that it is not blind.

The campaign runs as its users run it, as a process of its own. Faults are put in here, in this process, by taking out
of the library what finds a flip: then the rig must see it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.flip_looks import Asked, Refused, Seen, judge  # noqa: E402
from rigs.flip_places import map_of  # noqa: E402
from rigs.flips import Campaign  # noqa: E402

from holdfast import SQLiteStore  # noqa: E402
from holdfast.ports.verification import Verification  # noqa: E402

SEED = "20261122"
# All that may be flipped; each gets its share.
PLACES = {
    *("threads", "branches", "turns", "runs", "journal", "owners", "sqlite_schema", "sqlite_sequence"),
    *("sqlite_autoindex_threads_1", "threads_recent", "threads_branch", "branches_thread", "branches_parent"),
    *("sqlite_autoindex_turns_1", "sqlite_autoindex_turns_2", "turns_key", "sqlite_autoindex_runs_1", "runs_thread"),
    *("file header", "free pages", "the log", "log cut", "database cut"),
}


def test_five_hundred_flips_in_every_table_and_none_is_silent() -> None:
    command = [sys.executable, "-m", "rigs.flips", "--json", "--flips", "500", "--seed", SEED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    told = f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    figures = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert (done.returncode, figures["found by"]["silent"], figures["faults"]) == (0, 0, []), told
    assert figures["flips"] == 500
    assert figures["places"].keys() == PLACES
    assert figures["found by"]["verify"] > 250
    assert figures["found by"]["a note"] > 20
    assert min(sum(found.values()) for found in figures["places"].values()) >= 5


# --- what is taken out of the library ------------------------------------------------------------------------------


class _Whatever(int):
    """A sum that fits everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def no_hashes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("holdfast.stores.rules.verify", lambda *_, **__: None)
    for module in ("history", "threads"):
        patch.setattr(f"holdfast.engine.{module}.check_end", lambda *_: None)


def no_sums(patch: pytest.MonkeyPatch) -> None:
    for module in ("sqlite_log", "sqlite", "sqlite_turns", "sqlite_journal", "sqlite_branches"):
        patch.setattr(f"holdfast.stores.{module}.check_of", lambda _: _Whatever())


def no_look_beside(patch: pytest.MonkeyPatch) -> None:
    for module in ("sqlite_log", "sqlite"):
        patch.setattr(f"holdfast.stores.{module}.check_absent", lambda *_: None)


def blind_verify(patch: pytest.MonkeyPatch) -> None:
    async def sound(self: SQLiteStore, **_: Any) -> Verification:
        return Verification()

    patch.setattr(SQLiteStore, "verify", sound)


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A campaign that has begun, while the library is whole."""
    made = Campaign(SEED, tmp_path)
    asyncio.run(made.begin())
    return made


@pytest.mark.parametrize(
    ("taken_out", "place"),
    [
        (no_hashes, "turns"),
        (no_sums, "threads"),
        (no_sums, "journal"),
        (no_look_beside, "sqlite_autoindex_threads_1"),
        (blind_verify, "threads_recent"),
        (blind_verify, "the log"),
    ],
)
def test_what_the_library_does_not_find_the_rig_finds(
    campaign: Campaign,
    monkeypatch: pytest.MonkeyPatch,
    taken_out: Callable[[pytest.MonkeyPatch], None],
    place: str,
) -> None:
    numbers = [number for number in range(2500) if campaign.flip_of(number).place == place][:60]
    whole = [asyncio.run(campaign.one(number))[2] for number in numbers[:8]]
    assert not any(judged.faults for judged in whole)
    taken_out(monkeypatch)
    for number in numbers:
        _, _, judged = asyncio.run(campaign.one(number))
        if judged.by == "silent":
            return
    pytest.fail(f"without what finds it, no flip in {place} was silent")


# --- what is said of what was seen -----------------------------------------------------------------------------------

WRITTEN = {
    "listing /*": "a b",
    "listing /a": "A",
    "listing /b": "B",
    "thread /a": "one two",
    "next turn of /a": '[{"content": "one"}]',
    "next turn of /open": '[{"content": "said"}, {"content": "Half an answer"}, {"content": "next"}]',
}
SOUND, NOTED = Verification(), Verification(notes=("something",))


@pytest.mark.parametrize(
    ("change", "verified", "found_by"),
    [
        ({}, SOUND, "harmless"),
        ({}, NOTED, "a note"),
        ({"thread /a": "one"}, NOTED, "silent"),
        ({"thread /a": "one"}, Refused("StoreError: no", True), "silent"),
        ({"thread /a": Refused("DamagedError: no", True)}, SOUND, "reading"),
        ({"thread /a": None}, SOUND, "silent"),
        ({"thread /a": None}, NOTED, "a note"),
        ({"listing /*": "b a"}, SOUND, "silent"),
        ({"listing /*": "b a"}, NOTED, "a note"),
        ({"listing /c": "C"}, NOTED, "silent"),
        ({"next turn of /a": "[]"}, NOTED, "silent"),
        ({"next turn of /open": '[{"content": "said"}, {"content": "Half"}, {"content": "next"}]'}, NOTED, "a note"),
        ({"next turn of /open": '[{"content": "said"}, {"content": "next"}]'}, NOTED, "a note"),
        ({"next turn of /open": '[{"content": "said"}, {"content": "next"}]'}, SOUND, "silent"),
        ({"next turn of /open": '[{"content": "said"}, {"content": "Other"}, {"content": "next"}]'}, NOTED, "silent"),
    ],
)
def test_what_is_said_of_what_was_seen(change: dict[str, Any], verified: Any, found_by: str) -> None:
    assert judge(Seen(verified, {**WRITTEN, **change}, []), [WRITTEN], Asked([])).by == found_by


def test_a_thread_that_is_missing_from_a_listing_must_be_told_by_somebody() -> None:
    less = {name: sight for name, sight in WRITTEN.items() if name != "listing /b"}
    assert judge(Seen(SOUND, less, []), [WRITTEN], Asked([])).by == "silent"
    assert judge(Seen(NOTED, less, []), [WRITTEN], Asked([])).by == "a note"
    refused = {**less, "listing /*": Refused("StoreError: no", True)}
    assert judge(Seen(SOUND, refused, []), [WRITTEN], Asked([])).by == "reading"


def test_an_error_that_is_not_the_librarys_own_is_a_fault() -> None:
    seen = Seen(NOTED, {**WRITTEN, "thread /a": Refused("TypeError: no", False)}, ["no way"])
    assert judge(seen, [WRITTEN], Asked([])).faults == ("unclear error: TypeError: no", "no way on: no way")


# --- columns -------------------------------------------------------------------------------------------------------


def test_the_values_of_columns_stand_where_they_are_said_to_stand(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size=512")
    connection.execute("CREATE TABLE t (a TEXT, b INTEGER, c BLOB, d TEXT, e REAL)")
    connection.execute("CREATE TABLE u (a TEXT, b TEXT, c TEXT, PRIMARY KEY (c, a)) WITHOUT ROWID")
    for n in range(40):
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, 1.5)", (f"name {n}", 7**n % 2**60, b"x" * 13 * n, "ok"))
        connection.execute("INSERT INTO u VALUES (?, ?, ?)", (f"a{n}", f"b{n}", f"c{n}"))
    connection.close()
    data = path.read_bytes()
    found = {
        f"{table}.{name}": [data[at : at + size] for at, size in spans] for table, name, spans in map_of(path).columns
    }
    assert sorted(found["t.a"]) == sorted(f"name {n}".encode() for n in range(40))
    assert {int.from_bytes(value, "big") for value in found["t.b"]} == {7**n % 2**60 for n in range(40)} - {1}
    assert set(map(len, found["t.c"])) <= {13 * n for n in range(1, 40)}
    assert len(found["t.c"]) > 25  # but for those that go on on another page
    assert set(found["t.d"]) == {b"ok"}
    for name in "abc":
        assert sorted(found[f"u.{name}"]) == sorted(f"{name}{n}".encode() for n in range(40))
