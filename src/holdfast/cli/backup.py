"""`holdfast backup`: a copy of the store in one file, made while chats go on.

Rule of this file: it is called good only after it was read from beginning to end; then it says how to go back to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys

import msgspec

from holdfast.cli.check_store import amount
from holdfast.cli.places import to_read
from holdfast.cli.progress import ProgressLine
from holdfast.cli.terminal import safe, safe_json
from holdfast.cli.transcript import counted
from holdfast.cli.trouble import FINE, Trouble, listen_to_log
from holdfast.ports.verification import Backup
from holdfast.stores.sqlite import SQLiteStore


def run(options: argparse.Namespace) -> int:
    """Make the copy. Raises Trouble and HoldfastError."""
    listen_to_log(options.debug)
    store = to_read(options.store)
    try:
        if not isinstance(store, SQLiteStore):
            raise Trouble(f"There is nothing to back up: threads in {store.location} end with the program.")
        if os.path.lexists(options.destination) and not options.force:
            raise Trouble(f"{options.destination} exists already. --force replaces it.")
        made = asyncio.run(_made(store, options))
    finally:
        store.close()
    if options.json:
        print(safe_json(json.dumps(msgspec.to_builtins(made), ensure_ascii=False, indent=2)))
    elif sys.stdout.isatty():
        what = f"{counted(made.threads, 'thread')}, {counted(made.turns, 'turn')}, {amount(made.bytes)}"
        print(safe(f"{made.path}: {what}; read once more, and all of it is what was written."))
        print(safe(f"To go back to it, use it as the store: --store {shlex.quote(made.path)}"))
    else:
        print(safe(made.path))
    return FINE


async def _made(store: SQLiteStore, options: argparse.Namespace) -> Backup:
    with ProgressLine() as line:
        return await store.backup(options.destination, replace=options.force, progress=line.show)
