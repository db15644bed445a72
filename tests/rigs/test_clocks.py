"""The rig of clocks, short: a hundred jumps, and the proof that its judges are not blind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rig_commands import SEED, Plants, campaign
from rigs.clock import Clock, Clocks
from rigs.clock_workers import Listing
from rigs.clocks import listing_flaws
from rigs.evidence import Contents, ThreadSeen

_DAY = 86_400 * 10**9


def test_a_hundred_jumps_of_clocks(tmp_path: Path) -> None:
    code, figures, told = campaign("clocks", "--jumps", "100", "--seed", SEED, "--folder", str(tmp_path))
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["jumps"] == 100
    kinds = figures["kinds of jumps"]
    assert min(kinds[kind] for kind in ("day forward", "day back", "a little back", "stands still")) >= 3
    assert kinds["slept"] >= 1
    assert figures["acked"] > 100
    assert figures["kills"] >= 1
    assert "100/100 jumps" in told  # progress, as plain lines


# --- faults that are put in ----------------------------------------------------------------------------------------

PLANTS = {
    "ids-by-clock": {"id made twice", "refused"},
    "ordered-by-clock": {"request does not fit", "order"},
    # A day forward makes a stream look as if nobody had read it; a day back keeps a stopped one's thread.
    "lease-by-wall": {"slow takeover", "lease stolen", "lease lost by the living", "turned away for nobody"},
}


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Plants:
    sizes = dict.fromkeys(PLANTS, ("--jumps", "50"))
    # A lease is only waited for in the rounds in which workers are stopped.
    sizes["lease-by-wall"] = ("--round", "1", "--a-round", "250", "--jumps", "250")
    return Plants("clocks", sizes, tmp_path_factory.mktemp("plants"))


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, plants: Plants) -> None:
    plants.check(plant, PLANTS[plant])


# --- its parts -----------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_in_another_place() -> None:
    clocks = Clocks(2)
    ours, other = Clock(clocks, 0), Clock(clocks, 1)
    clocks.set(0, wall=-_DAY, slept=3600 * 10**9)
    assert abs(ours.time_ns() - (time.time_ns() - _DAY + 3600 * 10**9)) < 10**9
    assert abs(ours.monotonic() - time.monotonic() - 3600) < 1
    assert abs(other.time_ns() - time.time_ns()) < 10**9
    clocks.set(0, stands=12345)
    assert (ours.time_ns(), ours.time_ns()) == (12345, 12345)
    assert ours.monotonic() <= ours.monotonic()


THREADS = Contents(threads=tuple(ThreadSeen(name, None) for name in ("a", "b", "c")))


@pytest.mark.parametrize(
    ("listing", "flaws"),
    [
        (Listing([("b", 9), ("a", 5), ("c", 5)], ["b", "a", "c"]), 0),
        (Listing([("b", 9), ("c", 5), ("a", 5)], ["b", "c", "a"]), 1),
        (Listing([("a", 5), ("b", 9), ("c", 5)], ["a", "b", "c"]), 1),
        (Listing([("b", 9), ("a", 5)], ["b", "a"]), 1),
        (Listing([("b", 9), ("a", 5), ("c", 5)], ["b", "a", "a", "c"]), 1),
        (Listing([("b", 9), ("a", 5), ("c", 5)], ["b", "c"]), 1),
    ],
)
def test_a_listing_that_is_not_whole_or_not_in_order_is_found(listing: Listing, flaws: int) -> None:
    assert len(listing_flaws(listing, THREADS)) == flaws
