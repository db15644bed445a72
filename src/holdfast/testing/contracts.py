"""Contracts: the situations that every store must come through, as tests that you run on yours.

    class TestMyStore(StoreContract):
        def make_store(self):
            return MyStore(...)          # fresh and empty

Rule of this file: a test is named by its situation and uses nothing but the protocols of `holdfast.ports.stores`.
It imports no test framework; run it with pytest and pytest-asyncio in its auto mode. For failures that show the
values, say `pytest.register_assert_rewrite("holdfast.testing")` in your conftest before you import it.

Tests that need more than a store (see the hooks of `Bench`) are skipped where the subclass does not provide it.
"""

from __future__ import annotations

from holdfast.testing.contracts_branches import BranchTests
from holdfast.testing.contracts_deleting import DeletingTests
from holdfast.testing.contracts_handing import HandingOverTests
from holdfast.testing.contracts_history import ForkingTests, ReadingTests, RewindingTests
from holdfast.testing.contracts_journal import JournalTests, ProgressTests, StopTests
from holdfast.testing.contracts_keeping import KeepingTests
from holdfast.testing.contracts_keys import KeyTests
from holdfast.testing.contracts_line import LineTests
from holdfast.testing.contracts_parking import AnsweringTests, KeepingParkedTests, ParkingTests, WaitingThreadTests
from holdfast.testing.contracts_points import PointTests, StandingTests
from holdfast.testing.contracts_runs import OpeningTests, SealingTests, TakingOverTests
from holdfast.testing.contracts_threads import DirectoryTests, TenantTests
from holdfast.testing.contracts_verifying import VerifyingTests


class StoreContract(
    OpeningTests,
    SealingTests,
    HandingOverTests,
    TakingOverTests,
    LineTests,
    KeyTests,
    PointTests,
    StandingTests,
    JournalTests,
    ProgressTests,
    StopTests,
    ParkingTests,
    AnsweringTests,
    WaitingThreadTests,
    ReadingTests,
    ForkingTests,
    RewindingTests,
    BranchTests,
    DeletingTests,
    DirectoryTests,
    TenantTests,
    VerifyingTests,
):
    """Everything that a `ThreadStore` promises. Subclass it, and give `make_store` (see `Bench` for the hooks)."""


class PersistentStoreContract(StoreContract, KeepingTests, KeepingParkedTests):
    """The same, and what a store promises that outlives its process: give `reopen` too."""
