"""Fence: whether only one process ever wrote a turn, the last one that was given it; and who had to give it up.

A store tells each writer its epoch. So from what stores answered alone it can be said what must not be:

    a turn was sealed by a writer after whom another one was given it           a stale writer was accepted
    a writer was given a thread whose last writer had neither sealed nor lost it   two writers at once
    a run was taken from a process that had beaten within a lease               a lease was stolen
    a run was not taken from a stopped process though somebody waited           a thread was stuck

Rule of this file: data and pure functions. It is told when a process was stopped, not what follows from it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar

from msgspec import Struct, field

from rigs.evidence import Acked, Asks, Contents, Died, Entry, Failed, Moved, Moves, Stalled, Standing
from rigs.oracle import Violation, token_of_turn

# "Otherwise within a second after the lease."
PATIENCE = 1.0

# --- what is written down ------------------------------------------------------------------------------------------


class Given(Entry, frozen=True, tag="given"):
    """The store has made a process the writer of a turn: it was opened, or taken over from another (`over`).

    `asked` is when that was asked for.
    """

    thread: str
    turn: str
    token: str
    epoch: int
    asked: float
    over: bool = False


class Sealed(Entry, frozen=True, tag="sealed"):
    """The store has acknowledged a writer's seal; `turns` is 0 if the thread was given back as it was."""

    thread: str
    turn: str
    epoch: int
    turns: int


class Rescued(Entry, frozen=True, tag="rescued"):
    """A process has gone on with a turn that another one had begun, and was told that it is done."""

    thread: str
    turn: str
    answer: str


class TurnedAway(Entry, frozen=True, tag="turned away"):
    """A run ended in StaleRunError: its writer was told that it has lost the thread."""

    talker: int
    thread: str
    token: str


class Beaten(Entry, frozen=True, tag="beaten"):
    """A process has said that it is alive; it `began` to then."""

    began: float


class Starved(Entry, frozen=True, tag="starved"):
    """The machine did not run a process for so long, as its own watch says; or the process was stopped meanwhile."""

    seconds: float


class Struck(Entry, frozen=True, tag="struck"):
    """A process is about to be killed: from now on it may be dead. (That it is for sure is another line, later.)"""


class Paused(Entry, frozen=True, tag="paused"):
    """A process was stopped, while its talkers stood there. `wrote`: in the middle of a write, with the file locked."""

    talkers: tuple[Standing, ...]
    aimed: str
    wrote: bool = False


class Resumed(Entry, frozen=True, tag="resumed"):
    """A stopped process goes on."""


class Blocked(Entry, frozen=True, tag="blocked"):
    """A process blocks its event loop for so many seconds in the middle of a turn; or (`mute`) it does not beat."""

    token: str
    seconds: float
    mute: bool = False


class Jumped(Entry, frozen=True, tag="jumped"):
    """The clocks of a process were set, in this way."""

    how: str


FenceLine: TypeAlias = (
    Asks
    | Acked
    | Moves
    | Moved
    | Failed
    | Died
    | Stalled
    | Given
    | Sealed
    | Rescued
    | TurnedAway
    | Beaten
    | Starved
    | Struck
    | Paused
    | Resumed
    | Blocked
    | Jumped
)

# --- the verdict ---------------------------------------------------------------------------------------------------


class FenceVerdict(Struct):
    """What a round came to. `waits` are the seconds for which somebody waited before a silent one lost its run.

    `blocked_wanted`: event loops that were blocked while somebody waited for their run for longer than the lease.
    """

    violations: list[Violation] = field(default_factory=list)
    pauses: int = 0
    takeovers: int = 0
    rescued: int = 0
    zombies: int = 0
    accepted: int = 0
    blocked: int = 0
    blocked_wanted: int = 0
    muted: int = 0
    mute_refused: int = 0
    held_the_lock: int = 0
    waits: list[float] = field(default_factory=list)


LineT = TypeVar("LineT")


def _of(lines: Iterable[object], kind: type[LineT]) -> list[LineT]:
    return [line for line in lines if isinstance(line, kind)]


class _Silence(Struct, frozen=True):
    """A process could not beat, or was made not to, from when to when. `stopped`: nor do anything else."""

    worker: int
    start: float
    end: float
    stopped: bool
    wrote: bool = False


class _Facts:
    """What was written down, looked up by turn and by worker."""

    def __init__(self, lines: Sequence[FenceLine], lease: float) -> None:
        self.lease = lease
        self.givens = _of(lines, Given)
        self.seals = {(line.turn, line.epoch): line for line in _of(lines, Sealed)}
        self.asks = {line.token: line for line in _of(lines, Asks)}
        # When a run no longer waited: it was let in, or came to nothing.
        self.let_in = {line.what: line.at for line in _of(lines, Failed)}
        self.let_in |= {line.token: line.at for line in lines if isinstance(line, TurnedAway | Given)}
        self.rescued = {line.turn for line in _of(lines, Rescued)}
        self.turned_away = {line.token: line for line in _of(lines, TurnedAway)}
        self.blocks = _of(lines, Blocked)
        # When the machine did not run a process, or the campaign (0), or took long to write for it.
        self.starved: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for line in lines:
            if isinstance(line, Stalled | Starved):
                self.starved[line.worker].append((line.at - line.seconds, line.at))
            elif isinstance(line, Beaten) and line.at - line.began > lease / 2:
                self.starved[line.worker].append((line.began, line.at))
        self.pauses = _of(lines, Paused)
        self.beats: dict[int, list[Beaten]] = defaultdict(list)
        for beat in _of(lines, Beaten):
            self.beats[beat.worker].append(beat)
        self.deaths: dict[int, float] = {line.worker: line.at for line in _of(lines, Struck)}
        self.asks_on: dict[str, list[Asks]] = defaultdict(list)
        for ask in self.asks.values():
            self.asks_on[ask.thread].append(ask)
        # In the order of their epochs.
        self.of_turn: dict[str, list[Given]] = defaultdict(list)
        self.on_thread: dict[str, list[Given]] = defaultdict(list)
        self.by_worker: dict[int, list[Given]] = defaultdict(list)
        for given in sorted(self.givens, key=lambda given: given.epoch):
            self.of_turn[given.turn].append(given)
            self.on_thread[given.thread].append(given)
            self.by_worker[given.worker].append(given)
        self.silences = list(self._silences(lines))
        self.blocked = [
            _Silence(block.worker, block.at, block.at + block.seconds, True) for block in self.blocks if not block.mute
        ]

    def _silences(self, lines: Sequence[FenceLine]) -> Iterator[_Silence]:
        stopped: dict[int, Paused] = {}
        for line in lines:
            if isinstance(line, Paused):
                stopped[line.worker] = line
            elif isinstance(line, Resumed) and line.worker in stopped:
                paused = stopped.pop(line.worker)
                yield _Silence(line.worker, paused.at, line.at, True, paused.wrote)
            elif isinstance(line, Blocked) and line.mute:
                yield _Silence(line.worker, line.at, line.at + line.seconds, False)

    def not_to_blame(self, worker: int) -> list[tuple[float, float]]:
        """When nothing can be expected of a process, for the machine's sake."""
        return self.starved[0] + self.starved[worker]

    def lost_at(self, given: Given) -> float:
        """When a writer surely no longer had its thread: sealed, or somebody else was given it."""
        seal = self.seals.get((given.turn, given.epoch))
        after = bisect_right(self.on_thread[given.thread], given.epoch, key=lambda other: other.epoch)
        later = [other.at for other in self.on_thread[given.thread][after : after + 1]]
        return min([*later, seal.at if seal is not None else float("inf")])

    def taken(self) -> Iterator[tuple[Given, Given]]:
        """Whose runs were taken over, and by whom."""
        for givens in self.of_turn.values():
            yield from pairwise(givens)


def judge_fence(lines: Sequence[FenceLine], contents: Contents, *, lease: float) -> FenceVerdict:
    """All that is wrong about who wrote what, and the figures."""
    facts = _Facts(lines, lease)
    mute = {block.token for block in facts.blocks if block.mute}
    found = FenceVerdict(
        pauses=len(facts.pauses),
        takeovers=sum(1 for _ in facts.taken()),
        rescued=len(facts.rescued),
        zombies=len(facts.turned_away),
        blocked=sum(not block.mute for block in facts.blocks),
        muted=len(mute),
        mute_refused=len(mute & facts.turned_away.keys()),
        held_the_lock=sum(pause.wrote for pause in facts.pauses),
        waits=[wait for _, _, wait in _waits(facts, facts.silences)],
        blocked_wanted=sum(wait > lease for _, _, wait in _waits(facts, facts.blocked)),
    )
    accepted = [*_accepted(facts), *_accepted_in_log(facts, contents)]
    found.accepted = len(accepted)
    found.violations += accepted
    for check in (_one_at_a_time, _stolen, _lost_while_alive, _turned_away_for_nothing, _in_time):
        found.violations.extend(check(facts))
    return found


# --- checks --------------------------------------------------------------------------------------------------------


def _accepted(facts: _Facts) -> Iterator[Violation]:
    """Nobody's seal was acknowledged after whom another was given the turn."""
    for before, after in facts.taken():
        if (before.turn, before.epoch) in facts.seals:
            who = f"worker {before.worker} sealed it as epoch {before.epoch}"
            yield Violation("stale accepted", f"turn {before.turn}: {who}, worker {after.worker} had {after.epoch}")


def _accepted_in_log(facts: _Facts, contents: Contents) -> Iterator[Violation]:
    """Nothing of a run that was taken over is in the log, but for what the one who took it over wrote."""
    lost = {before.token for before, _ in facts.taken()} | facts.turned_away.keys()
    for turn in contents.turns:
        token = token_of_turn(turn)
        if token in lost and turn.status != "interrupted" and turn.id not in facts.rescued:
            yield Violation("stale accepted", f"{token} had lost its thread, and is turn {turn.id}, {turn.status}")


def _one_at_a_time(facts: _Facts) -> Iterator[Violation]:
    """A thread's epochs: each writer had sealed, or lost its turn to the next, before another turn was opened."""
    for thread, givens in facts.on_thread.items():
        for before, after in pairwise(givens):
            who = f"thread {thread}: workers {before.worker} and {after.worker}, epochs {before.epoch}, {after.epoch}"
            if before.epoch == after.epoch:
                yield Violation("two writers", who)
            elif (
                before.turn != after.turn
                and (before.turn, before.epoch) not in facts.seals
                and before.worker not in facts.deaths
            ):
                yield Violation("two writers", f"{who}; turn {before.turn} was neither sealed nor taken over")


def _stolen(facts: _Facts) -> Iterator[Violation]:
    """No run was taken from a process that had beaten within the last lease."""
    for before, after in facts.taken():
        if facts.deaths.get(before.worker, float("inf")) < after.at:
            continue
        for beat in facts.beats[before.worker]:
            if beat.began > after.asked - facts.lease and beat.at < after.asked:
                ago = f"worker {before.worker} had beaten {after.asked - beat.at:.2f} s before"
                yield Violation("lease stolen", f"turn {before.turn} of thread {before.thread}: {ago}")
                break


def _lost_while_alive(facts: _Facts) -> Iterator[Violation]:
    """Who was neither stopped nor made mute keeps its lease, also if its event loop is blocked."""
    for before, after in facts.taken():
        if _was_alive(facts, before, after):
            token = f"{before.token} on thread {before.thread}"
            yield Violation("lease lost by the living", f"{token}: worker {before.worker} was not stopped")


def _was_alive(facts: _Facts, before: Given, after: Given) -> bool:
    """Whether a process could say all the time that it lives, for a lease before its run was taken from it."""
    since = after.asked - facts.lease
    if facts.deaths.get(before.worker, float("inf")) < after.at:
        return False
    if any(end > since and start < after.at for start, end in facts.not_to_blame(before.worker)):
        return False
    return not any(
        silence.worker == before.worker and silence.start < after.asked and silence.end > since
        for silence in facts.silences
    )


def _turned_away_for_nothing(facts: _Facts) -> Iterator[Violation]:
    """Only who had a thread can lose it, and only to somebody."""
    taken = {before.token for before, _ in facts.taken()}
    given = {given.token for given in facts.givens}
    for token, line in facts.turned_away.items():
        if token not in given:
            yield Violation("turned away without having run", f"{token} on thread {line.thread}")
        elif token not in taken:
            yield Violation("turned away for nobody", f"{token} on thread {line.thread}: nobody took it over")


def _in_time(facts: _Facts) -> Iterator[Violation]:
    """A stopped one's run is taken over within a second after the lease, if somebody waits for it."""
    for given, who, seconds in _waits(facts, facts.silences):
        if seconds > facts.lease + PATIENCE:
            what = f"turn {given.turn} of the silent worker {given.worker}"
            yield Violation("slow takeover", f"{given.thread}: {who} waited {seconds:.2f} s for {what}")


def _waits(facts: _Facts, silences: Sequence[_Silence]) -> Iterator[tuple[Given, str, float]]:
    """For each run of a silent process that somebody waited for: the longest that a living one waited for it."""
    for silence in silences:
        for given in facts.by_worker[silence.worker]:
            end = min(silence.end, facts.lost_at(given))
            if given.at > silence.start or end <= silence.start:
                continue
            asks = [ask for ask in facts.asks_on[given.thread] if ask.worker != given.worker and ask.at < end]
            waits = ((_waited(facts, ask, silence.start, end), ask.token) for ask in asks)
            longest, who = max(waits, default=(0.0, ""))
            if longest > 0:
                yield given, who, longest


def _waited(facts: _Facts, ask: Asks, start: float, end: float) -> float:
    """The longest stretch of a time in which a run waited and its process could do something about it."""
    never = float("inf")
    start, end = max(start, ask.at), min(end, facts.let_in.get(ask.token, never), facts.deaths.get(ask.worker, never))
    idle = [
        (silence.start, silence.end)
        for silence in facts.silences
        if silence.stopped and (silence.worker == ask.worker or silence.wrote)
    ]
    idle += [(block.at, block.at + block.seconds) for block in facts.blocks if block.worker == ask.worker]
    idle += facts.not_to_blame(ask.worker)
    longest = 0.0
    for began, ended in sorted(idle):
        if began >= end:
            break
        if ended > start:
            longest = max(longest, began - start)
            start = ended
    return max(longest, end - start)
