"""Options: what may be set for an agent and for one run, and what of it makes sense.

Rule of this file: what is given is checked where it is given, before anything is opened or sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, get_args

import msgspec

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.ids import checked_turn_id
from holdfast.conversation.messages import checked_text
from holdfast.engine.detached import OnDisconnect
from holdfast.engine.leases import OnConflict
from holdfast.engine.limits import DEFAULT, Limits
from holdfast.engine.middleware import NOTHING_AROUND, Middleware, around
from holdfast.engine.providers import ContextProvider, providers
from holdfast.engine.toolkits import NO_TOOLS, Callee, answer_shape, toolkit
from holdfast.engine.views import View, checked_view
from holdfast.ports.clients import ChatOptions


class AgentOptions(TypedDict, total=False):
    """What may be set for an agent and for one run; the run's word counts.

    `timeout` (seconds) is for the whole run, waiting for the thread included; `enqueue_timeout` for the waiting alone.
    `on_conflict` says what a run does if its thread is in the middle of another: "enqueue" (default; first come, first
    served), "reject", "interrupt" (end the other as cancelled, and go on after what it has said) or "rollback" (end
    it, and go on as if it had not been; its turn stays on a branch). `on_disconnect` says what becomes of the run when
    whoever reads or awaits it goes away: "cancel" (default) or "continue". `limits` bound what a run takes.

    `tools` are what the model may call: functions, or what `tool`, `as_tool` and others made of something; a run's come
    on top of its agent's, and take the place of those of the same name. `tool_choice` is "auto", "none", or, for the
    first question of a run, "required" or the name of a tool. `response_format` is a type (a pydantic model, a
    dataclass, ...) or a JSON Schema; the answer in that form is the response's `.value`. `middleware` is put around
    runs, questions and tool calls, a run's inside its agent's; `context_providers` add to what each turn is told.
    `history` says how much of the conversation the service is told: all of it, LastTurns(n), TokenBudget(n), or what a
    function chooses of a list of turns. The rest goes to the model: see `ChatOptions`.
    """

    model: str | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    reasoning_effort: str | None
    user: str | None
    tool_choice: str | None
    parallel_tool_calls: bool | None
    extra: Mapping[str, Any] | None
    tools: Sequence[Callee] | Callee | None
    response_format: Any
    middleware: Sequence[Middleware] | Middleware
    context_providers: Sequence[ContextProvider]
    history: View | None
    timeout: float | None
    on_conflict: OnConflict
    enqueue_timeout: float | None
    on_disconnect: OnDisconnect
    limits: Limits


class ResumeOptions(AgentOptions, total=False):
    """What may be set for a run whose input is there already: `instructions` take the place of the agent's.

    `deps` is handed to the tools (`ToolContext.deps`), and to nobody else.
    """

    instructions: str | None
    deps: Any


class RunOptions(ResumeOptions, total=False):
    """What may be set for one run.

    `idempotency_key`: the same key on the same thread gives the same turn, for as long as the thread lives: the
    recorded one, or the one in flight. `after`: begin right after this turn of the thread's history (a turn id); what
    was said since then stays on a branch.
    """

    idempotency_key: str | None
    after: str | None


# Characters of an idempotency key.
MAX_KEY = 256

_MODEL_OPTIONS = frozenset(ChatOptions.__struct_fields__) - {"answer_format"}
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("model", "reasoning_effort", "user", "tool_choice"), str),
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), (int, float)),
    **dict.fromkeys(("max_tokens", "seed"), int),
    "extra": Mapping,
}
_WORDS: dict[Any, str] = {str: "a string", int: "a whole number", Mapping: "a dict"}
OF_ONE_RUN = ("instructions", "idempotency_key", "after", "deps")
_CHOICES: dict[str, tuple[str, ...]] = {
    "on_conflict": get_args(OnConflict),
    "on_disconnect": get_args(OnDisconnect),
}
_RUN_OPTIONS = frozenset(
    (
        *("instructions", "timeout", "enqueue_timeout", "limits", "idempotency_key", "after", *_CHOICES),
        *("tools", "response_format", "deps", "middleware", "context_providers", "history"),
    )
)


def checked_options(
    given: dict[str, Any], settings: dict[str, Any], options: ChatOptions
) -> tuple[dict[str, Any], ChatOptions]:
    """The settings and options with what is given put over them."""
    unknown = given.keys() - _MODEL_OPTIONS - _RUN_OPTIONS
    if unknown:
        raise InvalidInputError(
            f"There is no option {', '.join(sorted(map(repr, unknown)))}. The options are "
            f"{', '.join(sorted(_MODEL_OPTIONS | _RUN_OPTIONS))}; what only one service knows goes into extra={{...}}."
        )
    for name, choices in _CHOICES.items():
        if name in given and given[name] not in choices:
            raise InvalidInputError(f"{name} is one of {', '.join(map(repr, choices))}; got {given[name]!r}.")
    if given.get("instructions") is not None:
        checked_text(given["instructions"], "The run's instructions")
    _check_run_options(given)
    for name, kinds in _KINDS.items():
        value = given.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            wanted = _WORDS.get(kinds, "a number")
            raise InvalidInputError(f"{name} is {wanted}; got {value!r}.")
    of_model = {name: given[name] for name in given.keys() & _MODEL_OPTIONS}
    of_run = {name: given[name] for name in given.keys() & _RUN_OPTIONS}
    if "tools" in given:
        of_run["tools"] = settings.get("tools", NO_TOOLS).joined(toolkit(given["tools"]))
    if "middleware" in given:
        of_run["middleware"] = settings.get("middleware", NOTHING_AROUND).within(around(given["middleware"]))
    if "context_providers" in given:
        of_run["context_providers"] = (*settings.get("context_providers", ()), *providers(given["context_providers"]))
    if "history" in given:
        of_run["history"] = checked_view(given["history"])
    if "response_format" in given:
        of_run["response_format"] = shape = answer_shape(given["response_format"])
        of_model["answer_format"] = shape.format if shape is not None else None
    chosen = msgspec.structs.replace(options, **of_model) if of_model else options
    return {**settings, **of_run}, chosen


def refuse(options: Mapping[str, Any], names: Iterable[str], what: str) -> None:
    """Refuse options that make no sense here. Raises InvalidInputError."""
    for name in names:
        if name in options:
            raise InvalidInputError(f"{name} makes no sense for {what}.")


def _check_run_options(given: dict[str, Any]) -> None:
    """The options that are not the model's. Raises InvalidInputError."""
    for name in ("timeout", "enqueue_timeout"):
        seconds = given.get(name)
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= sys.float_info.max:
            raise InvalidInputError(f"{name} is a number of seconds greater than 0; got {seconds!r}.")
    if not isinstance(given.get("limits", DEFAULT), Limits):
        raise InvalidInputError(f"limits is a Limits(...); got {given['limits']!r}.")
    key = given.get("idempotency_key")
    if key is not None:
        checked_text(key, "An idempotency key")
        if not 0 < len(key) <= MAX_KEY:
            raise InvalidInputError(f"An idempotency key has 1 to {MAX_KEY} characters; got {len(key)}.")
    if given.get("after") is not None:
        checked_turn_id(given["after"])
