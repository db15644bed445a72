"""Planted bugs: each still applies to the library, and a campaign notices it within seconds.

That the same commands find nothing in the library as it is says `python -m rigs.planted --sound`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rigs stand beside the library, not in it

from rigs.planted import BUGS, CAMPAIGNS, CAUGHT_BY, SOURCE, hunt  # noqa: E402
from rigs.planted_bugs import Bug, applied  # noqa: E402


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_applies_to_the_library_as_it_is(bug: Bug, tmp_path: Path) -> None:
    copy = tmp_path / "holdfast"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    applied(bug, copy)
    for edit in bug.edits:
        compile((copy / edit.file).read_text(encoding="utf-8"), edit.file, "exec")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_campaign_notices_it(bug: Bug) -> None:
    outcome = hunt(bug, search=False)
    assert outcome.caught, outcome.told


def test_every_bug_has_a_command_that_notices_it() -> None:
    assert set(CAUGHT_BY) == {bug.name for bug in BUGS}


def test_what_is_played_are_campaigns() -> None:
    for command in (*CAMPAIGNS.values(), *CAUGHT_BY.values()):
        module = shlex.split(command)[0]
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
