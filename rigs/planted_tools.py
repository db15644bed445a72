"""Planted bugs around tools and approvals, and the commands by which `rigs.tools` notices them.

Rule of this file: as in `rigs.planted_bugs`: a bug is an edit of the library's text that a tired engineer could make.
"""

from __future__ import annotations

from collections.abc import Mapping

from rigs.planted_bugs import Bug, Edit

BUGS: tuple[Bug, ...] = (
    Bug(
        "start-held-back",
        (
            Edit(
                "engine/journals.py",
                "        await self._store.journal(self._run, self._with_held(record), durable=True)",
                "        self._held.append(record)",
            ),
        ),
        "That a call is begun is on disk before its function is entered: it is written with what comes next, so after "
        "a death nobody knows of the call, and it is made again.",
    ),
    Bug(
        "result-not-written-down",
        (
            Edit(
                "engine/journals.py",
                "        self._write(journal.done(self._run.epoch, self._answer, messages))\n"
                "        self._moved(messages)",
                "        self._moved(messages)",
            ),
        ),
        "A recorded result is never computed again: results are kept in memory only, so whoever goes on after a death "
        "knows less than the model was told.",
    ),
    Bug(
        "begun-call-made-again",
        (
            Edit(
                "engine/acting.py",
                "if was_begun and not (tool is not None and tool.idempotent):",
                "if was_begun and tool is None:",
            ),
        ),
        "A call that was begun and has no result is not made again unless its tool says that it may be: whoever goes "
        "on with a dead process's turn makes it a second time.",
    ),
    Bug(
        "begun-call-said-not-made",
        (
            Edit(
                "engine/effects.py",
                "found.append(result_message(call, UNKNOWN, is_error=True, decision=decision))",
                "found += results_for([call], why)",
            ),
        ),
        "What may have been done is never said to be undone: a turn that was cut off tells the model that a call was "
        "not made although it had begun.",
    ),
    Bug(
        "key-of-the-attempt",
        (
            Edit(
                "ports/tools.py",
                'return f"{self.turn_id}.{self.call_id}"',
                'return f"{self.turn_id}.{self.call_id}.{id(self):x}"',
            ),
        ),
        "A call that is made again after a crash has the same idempotency key: each attempt gets one of its own, so "
        "what is behind it does the deed twice.",
    ),
    Bug(
        "answer-not-bound-to-arguments",
        (Edit("engine/approving.py", "    if digest_of(call) != answer.digest:", "    if not answer.digest:"),),
        "An approval holds for exactly the arguments that were asked: one that was given for others is taken.",
    ),
    Bug(
        "decision-not-with-the-start",
        (
            Edit(
                "engine/acting.py",
                "await self._begin(ids, {name: decided[name] for name in ids if name in decided})",
                "await self._begin(ids, {})",
            ),
        ),
        "That an approval is used is written with the start of its call: whoever makes the call again after a death "
        "does so on nobody's word.",
    ),
    Bug(
        "waiting-run-taken-for-a-dead-one",
        (
            Edit(
                "engine/recovery.py",
                "sealing.append(_close(handle, taken, runtime, waited=left.waiting, rollback=rollback))",
                "sealing.append(_close(handle, taken, runtime, rollback=rollback))",
            ),
        ),
        "A run that waits for somebody's word is nobody's left-over: what is said instead closes it as cancelled, not "
        "as interrupted by a death that never was.",
    ),
    Bug(
        "results-as-they-come",
        (
            Edit(
                "engine/acting.py",
                "            while self._told and self._told[0].call_id in self._effects.results:\n"
                "                found.append(self._effects.results.pop(self._told.popleft().call_id))",
                "            for call in [call for call in self._told if call.call_id in self._effects.results]:\n"
                "                self._told.remove(call)\n"
                "                found.append(self._effects.results.pop(call.call_id))",
            ),
        ),
        "Results go back in the order of the calls: they go back as they come.",
    ),
)

# By which command each bug is noticed, in seconds.
CAUGHT_BY: Mapping[str, str] = {
    "start-held-back": "rigs.tools --kills 8 --seed 1",
    "result-not-written-down": "rigs.tools --kills 20 --seed 1 --aim begun inside done --calls sp --then resumes",
    "begun-call-made-again": "rigs.tools --kills 12 --seed 1 --aim done left --calls sp --then resumes",
    "begun-call-said-not-made": "rigs.tools --kills 12 --seed 1 --aim done left --calls sp --then says",
    "key-of-the-attempt": "rigs.tools --kills 16 --seed 1 --aim inside done left --calls uc --then resumes",
    "answer-not-bound-to-arguments": "rigs.tools --kills 30 --seed 1 --aim parked sealed --calls sbg --then answers",
    "decision-not-with-the-start": "rigs.tools --kills 20 --seed 1 --aim inside done --calls r --then resumes",
    "waiting-run-taken-for-a-dead-one": "rigs.tools --kills 8 --seed 1 --aim parked sealed --calls sbg --then says",
    "results-as-they-come": "rigs.tools --kills 8 --seed 1",
}
