"""Contents for the judge of tools: the calls and results of all turns, and of the runs that wait or were left open.

Rule of this file: it reads through the library, as anybody would; what the tables hold beside that says
`rigs.contents`. What cannot be read is a finding, never an error of the rig.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast import AgentThread, ChatMessage, HoldfastError, SQLiteStore, ThreadStore, ToolResultContent
from holdfast.conversation.journal import recorded
from holdfast.conversation.records import decode_messages
from rigs.contents import read_contents
from rigs.evidence import Contents
from rigs.tools_evidence import CallSeen, Kept, TurnKept


async def read_file(path: Path) -> Kept:
    """What a file holds. Nobody else may be using it."""
    store = SQLiteStore(path)
    try:
        kept = await read_store(store)
    finally:
        store.close()
    waiting = any(turn.status == "waiting" for turn in kept.turns)
    return Kept(kept.turns, (*kept.wrong, *_unsound(await read_contents(path), waiting)))


async def read_store(store: ThreadStore, *names: str) -> Kept:
    """What a store holds, as the library tells it; of these threads, or of all."""
    turns: list[TurnKept] = []
    wrong: list[str] = []
    found = [await store.get(name) for name in names] if names else (await store.list(limit=1000)).threads
    for info in filter(None, found):
        thread = AgentThread(store, info.id, intent="existing")
        try:
            turns += [
                _kept(turn.id, info.id, turn.status, _text(turn.input), turn.output) for turn in await thread.turns()
            ]
            if info.busy is not None:
                turns.append(await _run(store, thread, info.busy, waiting=info.waiting))
        except HoldfastError as error:
            wrong.append(f"thread {info.id} cannot be read: {type(error).__name__}: {error}")
    return Kept(tuple(turns), tuple(wrong))


async def _run(store: ThreadStore, thread: AgentThread, turn_id: str, *, waiting: bool) -> TurnKept:
    """A run that has not ended."""
    progress = await store.progress(thread.id, turn_id)
    assert progress is not None
    assert progress.run is not None
    found = recorded(progress.records)
    requests = tuple(request.call_id for request in await thread.approvals())
    messages = [*found.messages, *found.results.values()]
    text = _text(decode_messages(progress.run.input))
    return _kept(turn_id, thread.id, "waiting" if waiting else "open", text, messages, requests)


def _text(messages: Sequence[ChatMessage]) -> str:
    return "".join(message.text for message in messages)


def _kept(
    turn_id: str,
    thread_id: str,
    status: str,
    text: str,
    output: Sequence[ChatMessage],
    requests: tuple[str, ...] = (),
) -> TurnKept:
    results = {part.call_id: (message, part) for message in output for part in _results(message)}
    calls = []
    for call in (call for message in output for call in message.tool_calls):
        message, part = results.get(call.call_id, (None, None))
        told = (message.additional_properties or {}).get("approval") if message is not None else None
        word = told if isinstance(told, dict) else {}
        found = (None if part is None else part.result, word.get("approved"), str(word.get("by", "")))
        calls.append(CallSeen(call.call_id, call.name, call.arguments, *found))
    flaw = next(_unpaired(output), None) if status not in ("waiting", "open") else None
    return TurnKept(turn_id, thread_id, status, text, tuple(calls), requests, flaw)


def _results(message: ChatMessage) -> list[ToolResultContent]:
    return [part for part in message.contents if isinstance(part, ToolResultContent)]


def _unpaired(output: Sequence[ChatMessage]) -> Iterator[str]:
    """Results that do not come right after their calls, each once and in their order."""
    wanted: list[str] = []
    for message in output:
        found = [part.call_id for part in _results(message)]
        if found != wanted[: len(found)]:
            yield f"results {found} where {wanted} are to come"
        wanted = wanted[len(found) :]
        if message.role == "assistant":
            if wanted:
                yield f"the model goes on before it has the results of {wanted}"
            wanted = [call.call_id for call in message.tool_calls]
    if wanted:
        yield f"there are no results of {wanted}"


def _unsound(contents: Contents, waiting: bool) -> Iterator[str]:
    if contents.integrity != "ok":
        yield f"the file is damaged: {contents.integrity}"
    for turn in contents.turns:
        if turn.flaw is not None or not turn.sound:
            yield f"turn {turn.id}: {turn.flaw or 'its hash does not match'}"
    for thread in contents.threads:
        if thread.flaw is not None:
            yield f"thread {thread.id}: {thread.flaw}"
    if contents.tickets and not waiting:  # nobody had to clear up before a thread that waits
        yield f"tickets are left: {contents.tickets}"
    if contents.journal and not waiting:
        yield f"{contents.journal} records of journals are left, though no run waits"
