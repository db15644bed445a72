"""Playing: a conversation in which the service fails at one place, as its caller lives through it.

A booth is a service, a relay before it, a client and an agent; each point is a fork of a conversation that was led
without faults up to the turn in question. The caller does what callers do: says the same again if nothing was said to
it, asks to go on if something was, and then says the next thing.

Rule of this file: it plays and writes down; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from holdfast import AgentThread, ChatAgent, MemoryStore, OpenAIChatClient, Turn
from holdfast.ports.runtime import SystemRuntime
from holdfast.testing.openai_chat import ChatCompletionsStandIn, ParsedRequest
from holdfast.testing.openai_chat_rendering import render
from holdfast.testing.standin_tapes import Answer, Send
from rigs.faults_gate import Gate
from rigs.faults_kinds import SILENCE, Kind, Spot
from rigs.faults_talks import GO_ON, Talk, answer_to

MODEL, KEY = "rig-model", "sk-of-the-rigs"
RETRIES = 2
# Seconds that the service may say nothing: to a client that is to notice it, and to all others.
_SILENCE, _NO_SILENCE = 0.12, 30.0
_PATIENCE = 40.0


class Point(Struct, frozen=True):
    """One place in one conversation at which the service fails: which answer of which turn, how, where in it.

    `times` is how often in a row.
    """

    talk: Talk
    turn: int
    answer: int
    kind: Kind
    spot: Spot
    streamed: bool
    times: int = 1

    def __str__(self) -> str:
        how = "streamed" if self.streamed else "in one piece"
        at = "before its headers" if self.spot is None else f"at {self.spot}"
        times = "" if self.times == 1 else f", {self.times} times"
        return f"{self.talk.name}, turn {self.turn}, answer {self.answer}, {how}: {self.kind.name} {at}{times}"


class Asked(Struct, frozen=True):
    """A request as the service saw it. `spoilt`: it was answered with the fault."""

    messages: tuple[dict[str, Any], ...]
    refusal: str | None
    spoilt: bool


class Spoken(Struct):
    """One run, as its caller lived through it."""

    said: str
    streamed: bool
    read: str = ""  # the text that was read, or given in the response
    error: BaseException | None = None
    turn_id: str | None = None
    asked: tuple[Asked, ...] = ()
    waits: tuple[float, ...] = ()
    whole: str = ""  # what the service meant to say
    left: bool = False  # its reader went away in the middle
    turns: list[Turn] = []  # the conversation as it was stored right after it


class Played(Struct):
    """All that happened, and the conversation as it is stored then."""

    point: Point | None
    spoken: list[Spoken]
    turns: list[Turn]
    instructions: str | None
    left: list[str]  # what was not given back


class Impatient(SystemRuntime):
    """The real world, but that nobody waits for long; how long they meant to is written down."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.on_wait: Callable[[], Awaitable[object]] | None = None

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.on_wait is not None:
            await self.on_wait()
        await super().sleep(0)


class Service(ChatCompletionsStandIn):
    """The strict stand-in; it answers as the conversations say, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__(api_key=KEY, models=[MODEL], keep=256)
        self._spoil: dict[tuple[str, int], list[tuple[Kind, Spot]]] = {}
        self._spoilt: set[int] = set()

    def spoil(self, said: str, answer: int, faults: Sequence[tuple[Kind, Spot]]) -> None:
        """Fail in these ways, one after the other, when this answer is asked for."""
        self._spoil[said, answer] = list(faults)

    def forgive(self) -> None:
        """Answer soundly from now on."""
        self._spoil.clear()

    def default_reply(self, request: ParsedRequest) -> Answer | str:
        said, number, answer = answer_to(request.messages)
        faults = self._spoil.get((said, number))
        if not faults:
            return answer
        kind, spot = faults.pop(0)
        if kind.gate is not None:
            return answer
        self._spoilt.add(request.number)
        return kind.spoil(answer, spot)

    def seen(self, after: int) -> list[Asked]:
        """The requests that came after so many."""
        return [
            Asked(tuple((record.json or {}).get("messages") or ()), record.refusal, record.number in self._spoilt)
            for record in self.requests
            if record.number > after
        ]

    @property
    def arrived(self) -> int:
        return self._journal.arrived


class Booth(Struct):
    """A service and those who use it. `hasty` is a client that does not wait long."""

    service: Service
    gate: Gate
    client: OpenAIChatClient
    hasty: OpenAIChatClient
    runtime: Impatient
    store: MemoryStore

    def agent(self, talk: Talk, *, hasty: bool = False) -> ChatAgent:
        client = self.hasty if hasty else self.client
        return client.create_agent(talk.instructions, thread_store=self.store, runtime=self.runtime)


@contextlib.asynccontextmanager
async def booth(client_class: type[OpenAIChatClient] = OpenAIChatClient) -> AsyncIterator[Booth]:
    """A booth, with everything in this event loop but the service, which has a thread of its own."""
    with Service() as service:
        async with Gate(service._port) as gate:
            runtime = Impatient()

            def client(silence: float) -> OpenAIChatClient:
                address = f"http://127.0.0.1:{gate.port}/v1"
                options: Any = {"max_retries": RETRIES, "read_timeout": silence, "runtime": runtime}
                return client_class(MODEL, base_url=address, api_key=KEY, **options)

            store = MemoryStore(runtime=runtime)
            here = Booth(service, gate, client(_NO_SILENCE), client(_SILENCE), runtime, store)
            try:
                yield here
            finally:
                await here.client.aclose()
                await here.hasty.aclose()
                store.close()


async def speak(booth: Booth, agent: ChatAgent, thread: AgentThread, said: str, **options: Any) -> Spoken:
    """One run; whatever comes of it is written down. With `anew` the last answer is made anew."""
    anew = options.pop("anew", False)
    streamed = bool(options.pop("streamed", False))
    leave_after = options.pop("leave_after", None)
    spoken = Spoken(said, streamed)
    before, waited = booth.service.arrived, len(booth.runtime.waits)
    try:
        async with asyncio.timeout(_PATIENCE):
            if streamed:
                await _read(agent, thread, spoken, options, leave_after)
            else:
                made = agent.regenerate(thread) if anew else agent.run(said, thread=thread, **options)
                answered = await made
                spoken.read, spoken.turn_id = answered.text, answered.turn_id
    except Exception as error:
        spoken.error = error
        spoken.turn_id = spoken.turn_id or getattr(error, "turn_id", None)
        response = getattr(error, "response", None)
        if not streamed and response is not None:
            spoken.read = response.text
    spoken.asked = tuple(booth.service.seen(before))
    spoken.waits = tuple(booth.runtime.waits[waited:])
    spoken.turns = await thread.turns()
    spoken.whole = whole_answer(said)
    return spoken


async def _read(
    agent: ChatAgent, thread: AgentThread, spoken: Spoken, options: dict[str, Any], leave_after: int | None
) -> None:
    updates = 0
    async with agent.run_stream(spoken.said, thread=thread, **options) as stream:
        spoken.turn_id = stream.turn_id
        async for update in stream:
            spoken.read += update.text
            updates += 1
            if updates == leave_after:
                spoken.left = True
                return
        await stream.response()


def nothing_was_said(spoken: Spoken) -> bool:
    """Whether a caller would say the same again."""
    response = getattr(spoken.error, "response", None)
    return response is None or not response.messages


class Base:
    """The soundly led beginnings of a conversation, to be forked for each point."""

    def __init__(self, booth: Booth, talk: Talk) -> None:
        self.booth = booth
        self.talk = talk
        self.agent, self.hasty = booth.agent(talk), booth.agent(talk, hasty=True)
        self._thread = self.agent.get_new_thread()
        self._turns: list[str] = []

    async def before(self, turn: int) -> AgentThread:
        """A thread that stands before a turn of the conversation."""
        while len(self._turns) < turn:
            said = self.talk.exchanges[len(self._turns)].said
            self._turns.append((await self.agent.run(said, thread=self._thread)).turn_id)
        if turn == 0:
            return self.agent.get_new_thread()
        return await self._thread.fork(at=self._turns[turn - 1])

    async def play(self, point: Point) -> Played:
        """A point: the turn that goes wrong, what its caller does then, and the next turn."""
        thread = await self.before(point.turn)
        exchange = self.talk.exchanges[point.turn]
        spoken = [await self._wrong_turn(point, thread)]
        if spoken[0].error is not None:
            again = exchange.said if nothing_was_said(spoken[0]) else GO_ON
            spoken.append(await self._say(thread, again, point.streamed))
        following = self.talk.exchanges[(point.turn + 1) % len(self.talk.exchanges)].said
        spoken.append(await self._say(thread, following, not point.streamed))
        turns = await thread.turns()
        await thread.delete()
        return Played(point, spoken, turns, self.talk.instructions, left_in(self.booth))

    async def _wrong_turn(self, point: Point, thread: AgentThread) -> Spoken:
        service, gate = self.booth.service, self.booth.gate
        said = self.talk.exchanges[point.turn].said
        if point.kind.gate is not None:
            await gate.become(point.kind.gate, point.times)  # type: ignore[arg-type]
            if point.times <= RETRIES:
                self.booth.runtime.on_wait = gate.heal  # nobody can count who was not let in
        service.spoil(said, point.answer, [(point.kind, point.spot)] * point.times)
        try:
            return await self._say(thread, said, point.streamed, hasty=point.kind.name == SILENCE)
        finally:
            service.forgive()
            self.booth.runtime.on_wait = None
            await gate.heal()

    async def _say(self, thread: AgentThread, said: str, streamed: bool, *, hasty: bool = False) -> Spoken:
        agent = self.hasty if hasty else self.agent
        return await speak(self.booth, agent, thread, said, streamed=streamed)


def whole_answer(said: str) -> str:
    """All text that the service means to say to this."""
    texts: list[str] = []
    asked: list[dict[str, Any]] = [{"role": "user", "content": said}]
    for number in range(10):
        _, _, answer = answer_to(asked)
        message = answer.message(number)
        texts.append(message.get("content") or "")
        if not any(call["function"]["name"] for call in message.get("tool_calls") or ()):
            break  # a call without a name is no call
        asked.append({"role": "assistant"})
    return "".join(texts)


def writes_of(answer: Answer, *, streamed: bool) -> int:
    """In how many writes an answer is sent."""
    body = {"model": MODEL, "messages": [], "stream": streamed}
    if streamed:
        body["stream_options"] = {"include_usage": True}
    return sum(isinstance(step, Send) for step in render(answer, ParsedRequest(body)))


def left_in(booth: Booth) -> list[str]:
    """What the client has not given back."""
    transports = [client._transport for client in (booth.client, booth.hasty)]
    lines = [line for transport in transports if transport is not None for line in transport._lines.values()]
    found = [f"{len(line.replies)} replies were not closed" for line in lines if line.replies]
    found += [f"{len(line.connector._acquired)} connections are in use" for line in lines if line.connector._acquired]
    return found
