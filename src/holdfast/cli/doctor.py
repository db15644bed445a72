"""`holdfast doctor`: what is set up, whether it works, and what to do next.

Rule of this file: a line for each thing that was looked at, as soon as it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator

from holdfast.cli.check_service import check_service
from holdfast.cli.check_store import check_store
from holdfast.cli.check_system import check_system
from holdfast.cli.checks import Check, problem, show
from holdfast.cli.terminal import safe_json
from holdfast.cli.transcript import counted
from holdfast.cli.trouble import FAILED, FINE, listen_to_log, told


def run(options: argparse.Namespace) -> int:
    """Look at everything; the exit code says whether there is a problem."""
    listen_to_log(options.debug)
    found: list[Check] = []
    for check in _checks(options):
        found.append(check)
        if not options.json:
            show(check)
    problems = [check for check in found if check.state == "problem"]
    if options.json:
        print(safe_json(json.dumps(_state(found), ensure_ascii=False, indent=2)))
    elif sys.stdout.isatty():
        notes = sum(check.state == "note" for check in found)
        print(f"\n{counted(len(problems), 'problem').capitalize()}, {counted(notes, 'note')}.")
    return FAILED if problems else FINE


def _checks(options: argparse.Namespace) -> Iterator[Check]:
    yield from _to_the_end("system", check_system())
    yield from _to_the_end("store", check_store(options.store))
    yield from _to_the_end("service", check_service(options))


def _to_the_end(name: str, checks: Iterator[Check]) -> Iterator[Check]:
    """The checks of a part; what breaks it is one more, and the other parts are looked at all the same."""
    try:
        yield from checks
    except Exception as error:
        yield problem(name, told(error))


def _state(found: Iterable[Check]) -> dict[str, object]:
    """All checks as JSON-able data, and the worst of their states."""
    checks = [
        {"state": c.state, "name": c.name, "told": c.told, "advice": c.advice, "facts": dict(c.facts)} for c in found
    ]
    states = [check["state"] for check in checks]
    worst = next((state for state in ("problem", "note") if state in states), "ok")
    return {"state": worst, "checks": checks}
