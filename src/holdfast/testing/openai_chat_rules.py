"""The rules of Chat Completions: what makes the service refuse a request.

Rule of this file: a rule is one function that raises `RequestRefused`, named by what holds where it passes. Each may
rely on those before it in `STRICT`. Another set of rules is another tuple: leave some out, add your own.
"""

from __future__ import annotations

import re

from holdfast.testing.openai_chat_messages import (
    estimated_tokens,
    messages_are_given,
    messages_fit,
    texts,
    tool_calls_are_answered,
)
from holdfast.testing.openai_chat_parameters import NULLABLE, PARAMETERS
from holdfast.testing.openai_checks import Field, RequestRefused, Rule, Rules

# Models that reason take max_completion_tokens only. Documented for the o-series, known of its successors.
_REASONING_MODEL = re.compile(r"(o\d|gpt-[5-9])([-.]|$)")
_WITHOUT_STOP = re.compile(r"(o3|o4-mini)([-.]|$)")


def model_is_named(body: Field) -> None:
    """The request names a model."""
    if not body.given("model") or body.value["model"] == "":
        raise RequestRefused("you must provide a model parameter")
    body["model"].string()


def parameters_are_known(body: Field) -> None:
    """There is no parameter that the service does not know."""
    unknown = [name for name in body.value if name not in PARAMETERS]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise RequestRefused(f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}")


def parameters_fit(body: Field) -> None:
    """Each parameter has the type and lies in the range that is documented; null only where it is allowed."""
    for name, check in PARAMETERS.items():
        if name in body and (body.value[name] is not None or name not in NULLABLE):
            check(body[name])


def stream_options_need_stream(body: Field) -> None:
    """Options of a stream are for streams."""
    if body.given("stream_options") and body.value.get("stream") is not True:
        body["stream_options"].refuse(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", code=None
        )


def top_logprobs_need_logprobs(body: Field) -> None:
    """How many log probabilities is for those who ask for any."""
    if body.given("top_logprobs") and body.value.get("logprobs") is not True:
        body["top_logprobs"].refuse(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", code=None
        )


def one_limit_of_tokens(body: Field) -> None:
    """The old and the new limit of tokens exclude each other."""
    if body.given("max_tokens") and body.given("max_completion_tokens"):
        body["max_tokens"].refuse(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "invalid_parameter_combination",
        )


def model_supports_parameters(body: Field) -> None:
    """A model that reasons takes `max_completion_tokens`, not `max_tokens`; o3 and o4-mini take no `stop`."""
    model = body.value.get("model", "")
    if body.given("max_tokens") and _REASONING_MODEL.match(model):
        body["max_tokens"].refuse(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "unsupported_parameter",
        )
    if body.given("stop") and _WITHOUT_STOP.match(model):
        body["stop"].refuse("Unsupported parameter: 'stop' is not supported with this model.", "unsupported_parameter")


def tools_are_offered(body: Field) -> None:
    """A choice among tools is for those who offer some, and names one of them."""
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and "tools" not in body:
            body[name].refuse(
                f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", code=None
            )
    choice = body.value.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("function", "custom"):
        kind = choice["type"]
        if choice[kind]["name"] not in {tool[kind]["name"] for tool in body.value["tools"] if tool["type"] == kind}:
            body["tool_choice"].refuse(
                f"Invalid value for 'tool_choice': no {kind} named '{choice[kind]['name']}' was specified in 'tools'.",
                code=None,
            )


def json_mode_is_announced(body: Field) -> None:
    """The old JSON mode is only for messages that speak of JSON."""
    wanted = body.value.get("response_format") or {}
    if wanted.get("type") == "json_object" and "json" not in " ".join(texts(body.value["messages"])).lower():
        raise RequestRefused(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            param="messages",
        )


def context_fits(limit: int) -> Rule:
    """A rule: the messages have at most `limit` tokens, as `estimated_tokens` counts them."""

    def messages_fit_the_context(body: Field) -> None:
        tokens = estimated_tokens(body.value.get("messages"))
        if tokens > limit:
            raise RequestRefused(
                f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
                f"{tokens} tokens. Please reduce the length of the messages.",
                param="messages",
                code="context_length_exceeded",
            )

    return messages_fit_the_context


STRICT: Rules = (
    model_is_named,
    parameters_are_known,
    parameters_fit,
    messages_are_given,
    messages_fit,
    tool_calls_are_answered,
    tools_are_offered,
    stream_options_need_stream,
    top_logprobs_need_logprobs,
    one_limit_of_tokens,
    model_supports_parameters,
    json_mode_is_announced,
)
"""What the real service refuses."""

LENIENT: Rules = (messages_are_given,)
"""What a compatible server that hardly looks refuses."""
