"""Planted bugs: each still applies to the library, and campaigns notice them.

All of them are played by `python -m rigs.planted`; here some, the quickest.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.planted import CAMPAIGNS, CAUGHT_BY, SOURCE, hunt  # noqa: E402
from rigs.planted_bugs import BUGS, Bug, applied  # noqa: E402

QUICK = ("key-of-any-thread", "living-run-taken-over", "sync-dropped", "head-before-turn")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_applies_to_the_library_as_it_is(bug: Bug, tmp_path: Path) -> None:
    copy = tmp_path / "holdfast"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    applied(bug, copy)
    for edit in bug.edits:
        compile((copy / edit.file).read_text(encoding="utf-8"), edit.file, "exec")


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in QUICK], ids=lambda bug: bug.name)
def test_a_campaign_notices_it(bug: Bug) -> None:
    outcome = hunt(bug, search=False)
    assert outcome.caught, outcome.told


def test_what_is_known_of_bugs_and_campaigns_is_there() -> None:
    assert set(CAUGHT_BY) <= {bug.name for bug in BUGS}
    assert set(CAUGHT_BY.values()) <= set(CAMPAIGNS)
    assert set(QUICK) <= set(CAUGHT_BY)
