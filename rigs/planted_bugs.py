"""Planted bugs: faults put into a copy of the library on purpose, to see whether the campaigns notice them.

Each is one that a tired engineer could make: the library still imports, and a plain conversation still works in every
store; only a promise is broken, and only the fault that the promise is about shows it. A campaign that passes over a
copy with a bug in it is blind to that bug.

Rule of this file: a bug is an edit of the library's text and nothing else. A snippet that is to be replaced occurs
exactly once, so that a change of the library is noticed here and no bug is applied to the wrong place, or not at all.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class Edit(Struct, frozen=True):
    """`old` occurs exactly once in `file`, a path below src/holdfast; `new` takes its place."""

    file: str
    old: str
    new: str


class Bug(Struct, frozen=True):
    """A fault: its name, what it changes, and which promise is broken by which event."""

    name: str
    edits: tuple[Edit, ...]
    breaks: str


def applied(bug: Bug, source: Path) -> None:
    """Put a bug into a copy of src/holdfast. Raises ValueError, and changes nothing, if a snippet is not there once."""
    texts: dict[Path, str] = {}
    for edit in bug.edits:
        path = source / edit.file
        text = texts.get(path)
        if text is None:
            text = path.read_text(encoding="utf-8")
        found = text.count(edit.old)
        if found != 1:
            raise ValueError(f"{bug.name}: its snippet occurs {found} times in {edit.file}, not once:\n{edit.old}")
        texts[path] = text.replace(edit.old, edit.new)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def _edited(name: str, file: str, old: str, new: str, breaks: str) -> Bug:
    """A bug in one place."""
    return Bug(name, (Edit(file, old, new),), breaks)


# --- what is on disk when it is acknowledged ---------------------------------------------------------------------

_DURABILITY = (
    _edited(
        "sync-dropped",
        "stores/sqlite_db.py",
        'synchronous = "FULL" if durable else "NORMAL"',
        'synchronous = "NORMAL"',
        "What was acknowledged survives a power cut: no commit is synced, so a cut loses the turns said last.",
    ),
    _edited(
        "checkpoint-not-synced",
        "stores/sqlite_db.py",
        'self._checkpointer.execute("PRAGMA synchronous=FULL")',
        'self._checkpointer.execute("PRAGMA synchronous=OFF")',
        "What was acknowledged survives a power cut: a checkpoint lets the log begin anew before the pages that it "
        "copied are on disk, so a cut after it (a log of 4 MiB, or a deletion) loses turns of any age.",
    ),
    Bug(
        "acknowledged-before-the-commit",
        (
            Edit(
                "stores/sqlite_db.py",
                "        batch[0].value = batch[0].work(connection)\n        return",
                "        batch[0].value = batch[0].work(connection)\n        finish_all(batch)\n        return",
            ),
            Edit(
                "stores/sqlite_db.py",
                '        connection.execute("RELEASE work")',
                '        connection.execute("RELEASE work")\n    finish_all(batch)',
            ),
            Edit(
                "stores/sqlite_db.py",
                "                finish_all(batch)\n                if self._commits",
                "                finish_all([pending for pending in batch if not pending._done])\n"
                "                if self._commits",
            ),
        ),
        "What was acknowledged survives kill -9: the writer's thread says that a batch is done before its COMMIT, so "
        "a kill, or a disk that fails, in between loses turns whose runs have returned.",
    ),
    _edited(
        "commit-error-swallowed",
        "stores/sqlite_db.py",
        '            connection.execute("COMMIT")\n        except BaseException as error:',
        "            try:\n"
        '                connection.execute("COMMIT")\n'
        "            except (apsw.IOError, apsw.FullError) as failed:\n"
        '                log.warning("a commit to %s failed: %s", self.path, failed)\n'
        "                roll_back(connection)\n"
        "        except BaseException as error:",
        "A store that cannot write says so: an error of the disk, or a full one, at the COMMIT is only logged, and "
        "the run returns with a turn that is not there.",
    ),
    _edited(
        "second-descriptor",
        "stores/sqlite_db.py",
        "            self._reader = connect(self.path, self._busy_ms)\n        return self._reader",
        "            self._reader = connect(self.path, self._busy_ms)\n"
        '        for ending in ("", "-wal", "-shm"):  # somebody may have taken one away\n'
        '            open(f"{self.path}{ending}", "rb").close()\n'
        "        return self._reader",
        "Nothing else in the process opens the database's files: each look-up closes a descriptor of them, which drops "
        "SQLite's locks, so another process takes the log away when it closes the store, or writes in it at the same "
        "time, and turns that were acknowledged are lost.",
    ),
)

# --- all of it or nothing ------------------------------------------------------------------------------------------

_ATOMICITY = (
    Bug(
        "head-before-turn",
        (
            Edit(
                "stores/sqlite_seal.py",
                "turns: Sequence[NewTurn], stand: Head | None\n) -> tuple[Head, bool]:",
                "turns: Sequence[NewTurn], stand: Head | None, later: list[Any]\n) -> tuple[Head, bool]:",
            ),
            Edit(
                "stores/sqlite_seal.py",
                "head = _with_turns(connection, tenant, run, turns, stand) if turns",
                "head = _with_turns(connection, tenant, run, turns, stand, later) if turns",
            ),
            Edit(
                "stores/sqlite_seal.py",
                "turns: Sequence[NewTurn], stand: Head | None\n) -> Head:",
                "turns: Sequence[NewTurn], stand: Head | None, later: list[Any]\n) -> Head:",
            ),
            Edit(
                "stores/sqlite_seal.py",
                "    for stored in placed:\n"
                "        insert_turn(connection, tenant, run.thread_id, branch, stored)\n"
                "    return end",
                "    later[:] = [(branch, stored) for stored in placed]\n    return end",
            ),
            Edit(
                "stores/sqlite_runs.py",
                "from holdfast.stores.sqlite_turns import lineage, read_turns",
                "from holdfast.stores.sqlite_turns import insert_turn, lineage, read_turns",
            ),
            Edit(
                "stores/sqlite_runs.py",
                "seal(connection, tenant, run, handed, rules.checked_stand(run, stand))",
                "seal(connection, tenant, run, handed, rules.checked_stand(run, stand), later)",
            ),
            Edit(
                "stores/sqlite_runs.py",
                "        return self._write(work, durable=True, large=len(handed) > 50, settled=settled)",
                "        later: list[Any] = []\n"
                "\n"
                "        def put(connection: apsw.Connection) -> Head:\n"
                "            if not later:\n"
                "                raise rules.stale_run(run)\n"
                "            for branch, turn in later:\n"
                "                insert_turn(connection, tenant, run.thread_id, branch, turn)\n"
                "            return Head(branch, turn.seq, turn.hash, True)\n"
                "\n"
                "        closed = self._write(work, durable=True, large=len(handed) > 50, settled=settled)\n"
                "        if not handed or isinstance(closed, Failed):\n"
                "            return closed\n"
                "        return self._write(put, durable=True, large=len(handed) > 50)",
            ),
        ),
        "A turn is visible whole or not at all: the head moves in one commit and the turn comes in the next, so a "
        "kill between them leaves a thread that stands at a turn which is not there.",
    ),
)

# --- one writer at a time --------------------------------------------------------------------------------------------

_FENCING = (
    _edited(
        "epoch-not-compared",
        "stores/sqlite_seal.py",
        "AND epoch = ? AND run = ?",
        "AND epoch >= ? AND run = ?",
        "A stale writer never writes: one that was stopped for longer than a lease, while another process resumed its "
        "turn, wakes up and seals that turn with its own words.",
    ),
    Bug(
        "living-run-taken-over",
        (
            Edit(
                "stores/liveness.py",
                "fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner)",
                "fcntl.lockf(file.fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, owner)",
            ),
            Edit(
                "stores/liveness.py",
                "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner)",
                "fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, owner)",
            ),
        ),
        "A run waits for the one before it: every other process looks dead, so two processes on one thread close each "
        "other's runs as interrupted, and answers that were given are refused.",
    ),
)

# --- what a dead process, or a failed write, leaves -----------------------------------------------------------------

_RECOVERY = (
    _edited(
        "left-over-input-dropped",
        "engine/recovery.py",
        "    if taken.input == NOTHING:",
        "    if taken.input == NOTHING or not taken.journal:",
        "A run whose process dies becomes an interrupted turn: if it had written nothing down yet, it is closed as if "
        "it had never been, and what the user had said is gone.",
    ),
    _edited(
        "key-lost-in-recovery",
        "engine/recovery.py",
        "taken.started_us, runtime.now_us(), taken.key)",
        "taken.started_us, runtime.now_us())",
        "The same idempotency key gives the same turn: the turn of a process that was killed is closed without its "
        "key, so the caller's retry makes a second one.",
    ),
    _edited(
        "journal-deleted-at-take-over",
        "stores/sqlite_journal.py",
        "(tenant, turn_id, len(sound))",
        "(tenant, turn_id, 0)",
        "What an open run has written down stays until it is sealed: whoever resumes it empties the journal, so a "
        "second death loses the answers and results that the first writer had recorded, and they are made again.",
    ),
    _edited(
        "failed-seal-keeps-the-thread",
        "stores/sqlite_runs.py",
        "        return self._write(work, durable=True, large=len(handed) > 50, settled=settled)",
        "        sealed = self._write(work, durable=True, large=len(handed) > 50)\n"
        "        sealed.then(lambda _: settled())\n"
        "        return sealed",
        "No thread stays stuck: after a seal that the disk refused, this process still counts as making the run, and "
        "every later run on the thread waits for as long as it lives.",
    ),
)

# --- cancelled at any await -----------------------------------------------------------------------------------------

_CANCELLATION = (
    _edited(
        "cancelled-open-left-open",
        "engine/leases.py",
        "    except BaseException:\n        handed.then(giver_back(handle))\n",
        "    except BaseException:\n",
        "No thread stays stuck: a run that is cancelled while its opening is being committed stays open, made by "
        "nobody, and every later run on the thread waits for as long as the process lives.",
    ),
    _edited(
        "cancelled-waiter-keeps-its-ticket",
        "engine/leases.py",
        '        if wish.on_conflict != "reject":\n            store.withdraw(handle.id, wish.turn_id)\n        raise',
        "        raise",
        "No thread stays stuck: a run that is cancelled, or gives up, while it stands in line keeps its place, and "
        "all that come after it wait for it for as long as the process lives.",
    ),
    _edited(
        "unread-updates-recorded",
        "engine/runs.py",
        "        handed = self.handed()\n        self._answer.add(handed)",
        "        handed = self._batch\n        self._answer.add(handed)",
        "A cancelled turn holds what its caller has seen: what came in the same batch and was not read is recorded "
        "too, if the reader leaves in the middle of it.",
    ),
    _edited(
        "open-pair-sealed",
        "engine/sealing.py",
        "        if calls:\n            self._output.extend(self.effects.closing(",
        '        if calls and status == "completed":\n            self._output.extend(self.effects.closing(',
        "No run is sealed with an open pair: a turn that is cancelled, or fails, right after the model has called for "
        "a tool is stored with a call that has no result.",
    ),
    _edited(
        "cut-off-run-poisons-the-cache",
        "engine/sealing.py",
        '        self._encoded.restore()\n        if self._status == "failed"',
        '        if self._status == "failed"',
        "No thread stays stuck: after a run that was cancelled or failed, the end of its request stays in the cached "
        "conversation, and the service refuses what the thread sends from then on.",
    ),
)

# --- keys, forks, deletions ------------------------------------------------------------------------------------------

_IDENTITY = (
    Bug(
        "key-of-any-thread",
        (
            Edit(
                "stores/sqlite_branches.py",
                '"AND b.thread = ? AND b.incarnation = ? ORDER BY t.branch DESC, t.seq DESC LIMIT 1"',
                '"ORDER BY t.branch DESC, t.seq DESC LIMIT 1"',
            ),
            Edit("stores/sqlite_branches.py", "(tenant, key, thread_id, incarnation)", "(tenant, key)"),
        ),
        "An idempotency key counts on one thread: the same key and input on another thread of the tenant get that "
        "thread's answer, and nothing is recorded.",
    ),
    _edited(
        "rewound-fork-not-anchored",
        "stores/sqlite.py",
        "                anchor(connection, *whose, row.head)\n                row.stand_at(head)",
        "                row.stand_at(head)",
        "Rewind loses nothing: a fork that goes back on the branch it began from cannot return to the turns that it "
        "left, and they are swept when the thread that said them is deleted.",
    ),
    _edited(
        "deleted-bytes-stay",
        "stores/sqlite_files.py",
        '"secure_delete=ON"',
        '"secure_delete=FAST"',
        "A deletion overwrites the bytes: what stood on pages of its own (a long answer) can still be read in the "
        "file after its thread was deleted.",
    ),
    _edited(
        "rewound-turns-sent",
        "engine/history.py",
        "slot.prefix(min(slot.seq, segment.upto))",
        "slot.prefix(slot.seq)",
        "A thread sends its own history: after a rewind, or a fork at an earlier turn, the turns that were left, or "
        "that the other thread has said since, are sent from the cache.",
    ),
)

# --- damage is found, and a service's faults are not taken for answers ------------------------------------------------

_TRUTH = (
    _edited(
        "hash-without-status",
        "conversation/records.py",
        "_encoder.encode((seq, turn_id, key, status, reference, started_us, ended_us))",
        "_encoder.encode((seq, turn_id, key, reference, started_us, ended_us))",
        "Damage is found: a change of the column that says how a turn ended is neither seen on reading nor by verify.",
    ),
    _edited(
        "only-the-last-hash-checked",
        "stores/rules.py",
        "    for turn in turns:\n",
        "    if len(turns) > 1:\n"
        "        parent, before = turns[-2].hash, turns[-2].turn_id\n"
        "    for turn in turns[-1:]:  # which is chained to all before it\n",
        "Damage never reaches a model: of the turns that are read together only the last one's hash is compared, so a "
        "changed byte in any other is handed on.",
    ),
    _edited(
        "retry-after-text",
        "clients/asking.py",
        "if not handed_on and tries < most:",
        "if tries < most:",
        "Nothing is sent again once a part of the answer was handed on: an answer that breaks off is asked for again, "
        "and the turn is recorded with its beginning twice.",
    ),
    _edited(
        "cut-off-answer-completed",
        "clients/asking.py",
        "if not decoder.finished or decoder.error is not None or decoder.broken is not None:",
        "if decoder.error is not None or decoder.broken is not None:",
        "A turn says how it ended: a stream that ends in the middle of an answer, without a word why, is recorded as "
        "a completed turn.",
    ),
)

BUGS: tuple[Bug, ...] = (
    *_DURABILITY,
    *_ATOMICITY,
    *_FENCING,
    *_RECOVERY,
    *_CANCELLATION,
    *_IDENTITY,
    *_TRUTH,
)
