"""Looking at a store in every way in which users do, and what is to be said of what was seen.

Rule of this file: nothing but the public interface looks, and a scripted client writes down what a model is told.
What is seen is made text, so that it can be compared with what was written.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from holdfast import AgentThread, HoldfastError, SQLiteStore, Turn
from holdfast.conversation.records import encode_messages
from holdfast.ports.stores import Earlier, OpenRun, Terms
from holdfast.ports.verification import Damage, Verification
from holdfast.testing.scripted import ScriptedChatClient
from rigs.flip_base import TENANTS

# What was seen under a name: text, None if it is not there, or an error.
Sight: TypeAlias = "str | Refused | None"
_NEXT = "What comes next?"
# What a dead process has left open ends with what is sound of its journal; verify says so.
LEFT_OPEN = "next turn of /open"


class Refused(Struct, frozen=True):
    """The library would not say. `clear` is False if that was no error of its own."""

    what: str
    clear: bool


class Asked(Struct, frozen=True):
    """What is looked at: all threads that there ever were, turns of some to fork at, and a turn under a key.

    `turns` are all that are stored, also those that no thread stands on: id, depth and when they ended.
    """

    threads: Sequence[tuple[str, str]]
    forks: Sequence[tuple[str, str]] = ()
    keys: Sequence[tuple[str, str]] = ()
    turns: frozenset[tuple[str, int, int]] = frozenset()


class Seen(Struct):
    """All that was seen of a store, by name, and what `verify` said; which forks that it named did not go on."""

    verified: Verification | Refused
    sights: dict[str, Sight]
    dead_ends: list[str]

    @property
    def noticed(self) -> bool:
        """Whether `verify` had anything to say."""
        return isinstance(self.verified, Refused) or not self.verified.sound or bool(self.verified.notes)

    @property
    def refused(self) -> list[Refused]:
        return [sight for sight in self.sights.values() if isinstance(sight, Refused)]


async def look(path: Path, asked: Asked) -> Seen:
    """Verify, list, read every thread, go on as verify says, fork, and take a next turn on each."""
    store = SQLiteStore(path)
    try:
        verified: Verification | Refused = await _or_refused(store.verify(all_tenants=True))
        seen = Seen(verified, {}, [])
        for tenant in TENANTS:
            seen.sights.update(await _listed(store.for_tenant(tenant), tenant))
        for tenant, thread in asked.threads:
            seen.sights.update(await _branches(store.for_tenant(tenant), tenant, thread))
            seen.sights[f"thread {tenant}/{thread}"] = await _or_refused(_read(store.for_tenant(tenant), thread))
        if isinstance(verified, Verification):
            seen.dead_ends = [end for damage in verified.damage[:5] if (end := await _go_on(store, damage))]
        for thread, turn in asked.forks:
            seen.sights[f"fork of {thread} at {turn}"] = await _or_refused(_forked(store, thread, turn))
        for thread, key in asked.keys:
            seen.sights[f"turn of {thread} under {key}"] = await _or_refused(_under_key(store, thread, key))
        for tenant, thread in asked.threads:
            seen.sights[f"next turn of {tenant}/{thread}"] = await _or_refused(_asked(store.for_tenant(tenant), thread))
        return seen
    finally:
        store.close()


async def _or_refused(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except HoldfastError as error:
        return Refused(f"{type(error).__name__}: {error}", True)
    except Exception as error:
        return Refused(f"{type(error).__name__}: {error}", False)


# --- ways to look --------------------------------------------------------------------------------------------------


async def _listed(store: SQLiteStore, tenant: str) -> dict[str, Sight]:
    """Every thread of a listing under its id, and the order under "*"."""
    found: dict[str, Sight] = {}
    order: list[str] = []
    cursor: str | None = None
    try:
        while True:
            page = await store.list(limit=7, cursor=cursor)
            for info in page.threads:
                order.append(info.id)
                found[f"listing {tenant}/{info.id}"] = _told(info)
            found |= {f"listing {tenant}/{thread_id}": Refused("damaged", True) for thread_id in page.damaged}
            cursor = page.next
            if cursor is None or len(order) > 100:
                break
    except Exception as error:
        found[f"listing {tenant}/*"] = Refused(f"{type(error).__name__}: {error}", isinstance(error, HoldfastError))
    else:
        found[f"listing {tenant}/*"] = " ".join(order)
    return found


async def _read(store: SQLiteStore, thread_id: str) -> str | None:
    info = await store.get(thread_id, deleted=True)
    if info is None:
        return None
    if info.deleted:
        return _told(info)
    thread = AgentThread(store, thread_id, intent="existing")
    return "\n".join([_told(info), *map(_turn, await thread.turns())])


async def _branches(store: SQLiteStore, tenant: str, thread_id: str) -> dict[str, Sight]:
    """The tips of a thread's branches, each by its turn."""
    whose = f"branches of {tenant}/{thread_id}"
    tips = await _or_refused(store.branches(thread_id))
    if isinstance(tips, Refused):
        return {} if "NotFound" in tips.what else {f"{whose}/*": tips}
    found: dict[str, Sight] = {f"{whose}/{tip.turn_id}": _told(tip) for tip in tips}
    return {**found, f"{whose}/*": " ".join(tip.turn_id for tip in tips)}


async def _asked(store: SQLiteStore, thread_id: str) -> str | None:
    """What a model is told with the next turn, by a program that makes its threads as it needs them."""
    client = ScriptedChatClient("Nothing.")
    agent = client.create_agent(thread_store=store)
    await agent.run(_NEXT, thread=agent.get_thread(thread_id, create=True))
    return json.dumps(client.requests[0]["messages"])


async def _forked(store: SQLiteStore, thread_id: str, turn_id: str) -> str:
    """What a model is told on a fork that begins after a turn."""
    client = ScriptedChatClient("Nothing.")
    agent = client.create_agent(thread_store=store)
    fork = await AgentThread(store, thread_id, intent="existing").fork(at=turn_id)
    await agent.run(_NEXT, thread=fork)
    await fork.delete()
    return json.dumps(client.requests[0]["messages"])


async def _under_key(store: SQLiteStore, thread_id: str, key: str) -> str | None:
    """The turn that a retry finds; None if it would be made once more."""
    terms = Terms(key=key)
    found = await store.open_run(thread_id, "turn_of_a_retry", encode_messages(()), 1, intent="existing", terms=terms)
    if isinstance(found, OpenRun):
        await store.seal(found, ())
        return None
    return _told((found.turn.turn_id, found.turn.record.decode())) if isinstance(found, Earlier) else None


async def _go_on(store: SQLiteStore, damage: Damage) -> str:
    """Fork where verify says that one may; what is wrong with that, if anything is."""
    if damage.fork_at is None or not damage.threads or damage.tenant not in TENANTS:
        return ""
    view = store.for_tenant(damage.tenant)
    client = ScriptedChatClient("Nothing.")
    agent = client.create_agent(thread_store=view)
    try:
        fork = await AgentThread(view, damage.threads[0], intent="existing").fork(at=damage.fork_at)
        await agent.run(_NEXT, thread=fork)
        await fork.delete()
    except Exception as error:
        return f"{damage.what} {damage.way} {type(error).__name__}: {error}"
    return ""


def _told(what: Any) -> str:
    return json.dumps(msgspec.to_builtins(what))


def _turn(turn: Turn) -> str:
    said, answered = encode_messages(turn.input).decode(), encode_messages(turn.output).decode()
    told = (turn.id, turn.seq, turn.status, said, answered, turn.usage, turn.model, turn.service, turn.finish_reason)
    return json.dumps(msgspec.to_builtins((*told, turn.error, turn.started_us, turn.ended_us)))


# --- what is to be said of it --------------------------------------------------------------------------------------


class Judged(Struct, frozen=True):
    """What came of a flip. `by` says who found it: "open", "verify", "a note", "reading"; or "harmless", "silent"."""

    by: str
    faults: tuple[str, ...] = ()


def judge(seen: Seen, written: Sequence[Mapping[str, Sight]], asked: Asked, *, may_lose_tail: bool = False) -> Judged:
    """Compare with what was written; with several states of that, with the one that fits best.

    `may_lose_tail`: the change has taken away the end of the log, and nothing in what is left says so.
    """
    found = [_differences(seen.sights, state, asked) for state in written]
    false, absent = min(found, key=lambda lists: (len(lists[0]), len(lists[1])))
    faults = [f"silent: {name} is not what was written" for name in false]
    faults += [f"unclear error: {sight.what}" for sight in seen.refused if not sight.clear]
    if isinstance(seen.verified, Refused) and not seen.verified.clear:
        faults.append(f"unclear error of verify: {seen.verified.what}")
    faults += [f"no way on: {end}" for end in seen.dead_ends]
    unnoticed = [] if seen.noticed else [*found[-1][0], *found[-1][1]]
    if unnoticed and may_lose_tail and not false and not absent:
        return Judged("cut at a commit", tuple(faults))
    faults += [f"silent: nobody notices that {name} differs" for name in unnoticed]
    if any(fault.startswith("silent") for fault in faults):
        return Judged("silent", tuple(faults))
    return Judged(_found_by(seen), tuple(faults))


def _found_by(seen: Seen) -> str:
    if isinstance(seen.verified, Refused):
        return "open"
    if not seen.verified.sound:
        return "verify"
    if seen.verified.notes:
        return "a note"
    return "reading" if seen.refused else "harmless"


def _differences(seen: Mapping[str, Sight], written: Mapping[str, Sight], asked: Asked) -> tuple[list[str], list[str]]:
    """What is there and false; and what is missing, cut, or in another order."""
    false: list[str] = []
    absent: list[str] = []
    for name, sight in seen.items():
        if isinstance(sight, Refused) or sight == written.get(name):
            continue
        less = sight is None or name.endswith("/*") or (name not in written and _is_earlier_tip(name, sight, asked))
        less = less or (name == LEFT_OPEN and _is_cut(sight, written[name]))
        (absent if less else false).append(name)
    gone = [name for name in written if name not in seen and written[name] is not None]
    refused = {name for name, sight in seen.items() if name.endswith("/*") and isinstance(sight, Refused)}
    absent += [name for name in gone if f"{name.rpartition('/')[0]}/*" not in refused]
    return false, absent


def _is_earlier_tip(name: str, sight: Sight, asked: Asked) -> bool:
    """Whether it is a turn that is told as a branch's last one, since an index has lost those after it."""
    if not name.startswith("branches of ") or not isinstance(sight, str):
        return False
    tip = json.loads(sight)
    return (tip["turn_id"], tip["seq"], tip["ended_us"]) in asked.turns


def _is_cut(sight: Sight, written: Sight) -> bool:
    """Whether messages are those that were written, but for the end of the answer that was cut off."""
    if not isinstance(sight, str) or not isinstance(written, str):
        return False
    (*told, told_last), (*whole, answer, last) = json.loads(sight), json.loads(written)
    shortened = told == whole or (told[:-1] == whole and answer["content"].startswith(told[-1]["content"]))
    return bool(told_last == last and shortened)
