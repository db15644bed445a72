"""Do anything to a store, in any order, and compare it with plain lists after every step.

    python -m rigs.model --steps 1000000 --store sqlite [--seed N]

The machine is `holdfast.testing.state_machine`, which is part of the tests with some thousand steps: threads, runs,
journals, keys, points, forks, branches, stops, deletions, over two tenants. Here it runs for as long as one likes, in
rounds of a few hundred examples, each with a seed of its own.

Rule of this file: the machine decides what is right. What is printed of a failure repeats it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import apsw
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast import MemoryStore, SQLiteStore, ThreadStore
from holdfast.testing.state_machine import StoreMachine, store_machine
from rigs.telling import Ticker, per_minute, time_left

EXAMPLES_A_ROUND, STEPS_AN_EXAMPLE = 200, 50


class _Temporary(SQLiteStore):
    """A file in memory, if there is a place for such files; it goes when the store is closed."""

    def __init__(self) -> None:
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._folder = tempfile.TemporaryDirectory(prefix="holdfast-model-", dir=place)
        super().__init__(os.path.join(self._folder.name, "threads.db"))

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


def _left_in_file(store: ThreadStore) -> list[str]:
    """The tables that still hold something, when all threads are deleted."""
    connection = apsw.Connection(store.location)
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    made = {str(name) for (name,) in names}
    tables = made & {"turns", "branches", "runs", "journal"}
    found = [table for table in tables if connection.execute(f"SELECT count(*) FROM {table}").get]
    connection.close()
    return found


STORES: Mapping[str, tuple[Callable[[], ThreadStore], Callable[[ThreadStore], object] | None]] = {
    "memory": (MemoryStore, None),
    "sqlite": (_Temporary, _left_in_file),
}


def machine_of(store: str, count: Callable[[], None]) -> type[StoreMachine]:
    """The machine over a kind of store; `count` is called at every step."""
    base = store_machine(*STORES[store])

    class Counting(base):  # type: ignore[misc, valid-type]
        def check_invariants(self, *arguments: object, **named: object) -> None:
            count()
            super().check_invariants(*arguments, **named)

    return Counting


def one_round(store: str, number: str, count: Callable[[], None]) -> str | None:
    """Some hundred examples; the failure, if there was one."""
    limits = settings(
        max_examples=EXAMPLES_A_ROUND,
        stateful_step_count=STEPS_AN_EXAMPLE,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failure is told as it was found: making it smaller takes longer than the search
        suppress_health_check=list(HealthCheck),
    )
    machine = seed(number)(machine_of(store, count))
    try:
        run_state_machine_as_test(machine, settings=limits)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error))
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if the store did something that the lists did not."""
    parser = argparse.ArgumentParser(prog="python -m rigs.model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="10000 by default")
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite")
    parser.add_argument("--seed", default=f"{random.randrange(10**6)}", help="of what is done")
    parser.add_argument("--round", type=int, default=0, dest="first", metavar="N", help="begin with this round")
    options = parser.parse_args(argv)
    print(f"seed                {options.seed}")
    steps, number, began, failure = 0, options.first, time.monotonic(), None

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps % 500 == 0:
            ticker.show()

    ticker = Ticker(lambda: f"{steps}/{options.steps} steps, {time_left(steps, options.steps, began)}")
    while steps < options.steps and failure is None:
        failure = one_round(options.store, f"{options.seed}/{number}", count)
        number += 1
    ticker.show(last=True)
    seconds = time.monotonic() - began
    print(f"steps               {steps} on {options.store}, {per_minute(steps, seconds)} a minute")
    print(f"violations          {0 if failure is None else 1}")
    if failure is not None:
        print(failure)
        again = f"--store {options.store} --seed {options.seed} --round {number - 1}"
        print(f"to repeat           python -m rigs.model {again} --steps 1")
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
