"""Power cuts: five thousand disks as a power cut may leave them, and the proof that the rig is not blind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from disk_commands import PATIENCE, assert_found, campaign
from rigs.power_images import MODES, SECTOR, Event, Shadow

pytestmark = pytest.mark.timeout(PATIENCE + 20)

LOST = {"acknowledged turn lost"}


def test_five_thousand_power_cuts(tmp_path: Path) -> None:
    code, figures, told = campaign("power", tmp_path, "--images", "5000")
    assert (code, figures["violations"]) == (0, 0), told
    assert figures["images"] == 5000
    assert figures["images with something unsynced"] > 2500
    assert figures["next turns taken on"] == 500
    assert figures["turns to be found"] > 5000
    assert figures["faults"].keys() == MODES.keys()
    assert figures["moments"].keys() >= {"make file", "open", "ask", "seal", "idle", "checkpoint", "fork", "delete"}
    # Every turn is synced once; turns that end together share a sync. (Now and then the log begins anew with a seal,
    # and its head is synced before the rest.)
    assert 1.0 <= figures["syncs a turn, 1 at a time"] < 1.2, told
    assert 1 / 3 <= figures["syncs a turn, 3 at a time"] < 1.0, told


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        ("synchronous-normal", LOST),
        ("seal-not-durable", LOST),
        ("log-not-synced", LOST),
        ("folder-not-synced", LOST),
        ("ack-before-seal", LOST),
        ("sync-before-write", LOST | {"store cannot be read"}),
        ("database-not-synced", LOST | {"store cannot be read", "thread cannot be read", "half turn"}),
    ],
)
def test_a_planted_fault_is_found(plant: str, kinds: set[str], tmp_path: Path) -> None:
    assert_found("power", plant, kinds, tmp_path, "--images", "500")


# --- images ----------------------------------------------------------------------------------------------------------

OLD, NEW = b"o" * 2048, b"n" * 2048


def shadow_of(*events: Event) -> Shadow:
    shadow = Shadow()
    for event in events:
        shadow.go_on(event)
    return shadow


def contents(shadow: Shadow, file: str = "log") -> set[bytes | None]:
    """What a file may hold, in many images."""
    return {shadow.image(random.Random(seed))[1].get(file) for seed in range(300)}


def made(*events: Event) -> tuple[Event, ...]:
    """After a file was made, filled and synced, and its folder too."""
    return (
        Event("create", "log"),
        Event("write", "log", 0, OLD),
        Event("sync", "log", 2),
        Event("folder", at=3),
        *events,
    )


def test_what_was_synced_is_always_there() -> None:
    assert contents(shadow_of(*made())) == {OLD}


def test_what_was_not_synced_may_be_there_or_not_or_in_part() -> None:
    found = contents(shadow_of(*made(Event("write", "log", 0, NEW))))
    assert {OLD, NEW} < found
    for content in found - {OLD, NEW}:
        assert content is not None
        assert len(content) == 2048
    torn = {content for content in found if content is not None and content[SECTOR - 1] != content[SECTOR]}
    assert torn


def test_a_sync_covers_only_what_came_before_it_began() -> None:
    early, late = Event("write", "log", 0, NEW), Event("write", "log", 2048, NEW)
    found = contents(shadow_of(*made(early, late, Event("sync", "log", 5))))  # it had begun before the second write
    assert {NEW, NEW + NEW} <= found
    assert all(content is not None and content.startswith(NEW) for content in found)


def test_a_file_whose_folder_was_not_synced_may_be_gone() -> None:
    events = Event("create", "log"), Event("write", "log", 0, OLD), Event("sync", "log", 2)
    assert contents(shadow_of(*events)) == {None, OLD}


def test_a_deleted_file_may_be_there_again() -> None:
    found = contents(shadow_of(*made(Event("delete", "log"))))
    assert found == {None, OLD}
    again = shadow_of(*made(Event("delete", "log"), Event("create", "log"), Event("write", "log", 0, NEW)))
    assert {None, OLD, NEW} <= contents(again)


def test_a_length_is_never_less_than_what_was_synced_unless_it_was_cut() -> None:
    grown = contents(shadow_of(*made(Event("write", "log", 2048, NEW))))
    assert {len(content or b"") for content in grown} >= {2048, 4096}
    assert all(content is not None and content.startswith(OLD) for content in grown)
    cut = contents(shadow_of(*made(Event("truncate", "log", 100))))
    assert cut == {OLD, OLD[:100]}


def test_the_same_seed_makes_the_same_disk() -> None:
    shadow = shadow_of(*made(Event("write", "log", 100, NEW), Event("write", "log", 3000, NEW)))
    for seed in range(50):
        assert shadow.image(random.Random(seed)) == shadow.image(random.Random(seed))
