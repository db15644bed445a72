"""Who answers, and whether he does: the settings outside the code, the client that they choose, its service.

Rule of this file: settings are named and their values never shown. The service is sent what no service accepts, a
request without messages, by the client itself: so its address, proxy, certificate, credential and dialect are those
of a conversation, and no model runs that somebody pays for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from holdfast.cli.checks import Check, fine, note, problem
from holdfast.cli.partner import OFFLINE, chosen_client, who_answers
from holdfast.cli.terminal import cut, one_line, safe
from holdfast.cli.transcript import tokens
from holdfast.cli.trouble import told
from holdfast.clients.environment import FILE, layers
from holdfast.conversation.errors import AuthenticationError, HoldfastError, RateLimitError, ServiceError
from holdfast.engine.agents import ChatAgent
from holdfast.engine.responses import AgentRunResponse
from holdfast.ports.clients import ChatClient, ChatOptions, ChatRequest

_OPENAI = ("OPENAI_API_KEY", "OPENAI_CHAT_MODEL_ID", "OPENAI_BASE_URL", "OPENAI_ORG_ID")
_AZURE = (
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_BASE_URL",
    "AZURE_OPENAI_CHAT_DEPLOYMENT_NAME",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_API_VERSION",
    "AZURE_OPENAI_TOKEN_ENDPOINT",
)
_ANTHROPIC = ("ANTHROPIC_API_KEY", "ANTHROPIC_CHAT_MODEL_ID", "ANTHROPIC_BASE_URL")
_READ = (*_OPENAI, *_AZURE, *_ANTHROPIC)
# What others read, and what a service's being out of reach may come from. They do not count in a `.env` file.
_BESIDE = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_DATA_HOME")
# By which of them a service is chosen (see `holdfast.settings.client_from_environment`).
_CHOOSING = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "azure-openai": ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_BASE_URL"),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
}
# What a service misses in a request without messages: Anthropic looks for a length first.
_MISSED = ("message", "max_tokens")
_THERE = "there, and lets us in; no model was run"
_PATIENCE, _PATIENCE_FOR_WORDS = 10.0, 60.0
_QUESTION, _LONGEST_WORDS = "Say OK, and nothing else.", 64


def check_service(options: argparse.Namespace) -> Iterator[Check]:
    """The settings, the client, the service."""
    process, file = layers()
    yield from settings(process, file)
    try:
        client = chosen_client(options)
    except Exception as error:  # a credential of somebody else's may raise anything
        yield problem("answers", f"nobody: {told(error)}")
        return
    yield _answers(client, why(client.service, options, (process, file)))
    if options.ask:
        yield asked(client, options.timeout or _PATIENCE_FOR_WORDS)
    elif client.service == OFFLINE:
        yield fine("service", "none to reach: the partner is built in")
    elif options.no_network:
        yield note("service", "left alone (--no-network)")
    else:
        yield knocked(client, options.timeout or _PATIENCE)


# --- settings --------------------------------------------------------------------------------------------------


def settings(process: Mapping[str, str], file: Mapping[str, str]) -> Iterator[Check]:
    """Which variables are set, in the process and in the file."""
    beside = [name for known in _BESIDE for name in (known, known.lower()) if process.get(name)]
    here = [name for name in _READ if process.get(name)] + beside
    in_file = [name for name in _READ if file.get(name) and name not in process]
    hidden = [name for name in _READ if file.get(name) and name in process]
    parts = [", ".join(here)] if here else []
    if in_file:
        parts.append(f"in {FILE}: {', '.join(in_file)}")
    if hidden:
        parts.append(f"in {FILE} too, where it does not count: {', '.join(hidden)}")
    yield fine("settings", "; ".join(parts) or "none are set", environment=here, file=in_file, hidden=hidden)
    unread = [
        one_line(name)
        for name in sorted({**process, **file})
        if name.startswith(("OPENAI_", "AZURE_OPENAI_")) and name not in _READ
    ]
    if unread:
        known = _AZURE if all(name.startswith("AZURE_") for name in unread) else _OPENAI
        advice = f"If one of them is meant for holdfast: it reads {', '.join(known)}."
        yield note("settings", f"set, but not read by holdfast: {', '.join(unread)}", advice, unread=unread)
    if os.path.isfile(FILE) and not file:
        yield note("settings", f"the {FILE} file here says nothing that can be read", "Its lines are like NAME=value.")


def why(service: str, options: argparse.Namespace, known: Sequence[Mapping[str, str]]) -> str:
    """What chose the client."""
    if options.base_url:
        return "--base-url"
    for layer, place in zip(known, ("", f" in {FILE}"), strict=True):
        for name in _CHOOSING.get(service, ()):
            if layer.get(name):
                return f"{name}{place}"
    return "--model" if service != OFFLINE else ""


def _answers(client: ChatClient, because: str) -> Check:
    who = who_answers(client)
    facts = {name: getattr(client, name, None) for name in ("service", "model", "address")}
    if client.service == OFFLINE:
        advice = (
            "For a model set OPENAI_API_KEY and OPENAI_CHAT_MODEL_ID, or OPENAI_BASE_URL for another server, or "
            "AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_CHAT_DEPLOYMENT_NAME, or ANTHROPIC_API_KEY and "
            "ANTHROPIC_CHAT_MODEL_ID."
        )
        return note("answers", who, advice, **facts)
    return fine("answers", f"{who}, by {because}", because=because, **facts)


# --- the service -----------------------------------------------------------------------------------------------


def knocked(client: ChatClient, seconds: float) -> Check:
    """Send a request without messages, and see how it is refused."""
    try:
        asyncio.run(_knock(client, seconds))
    except ServiceError as error:
        return _understood(error)
    except HoldfastError as error:
        return problem("service", told(error))
    except TimeoutError:
        return _too_slow(client, seconds)
    return fine("service", _THERE)


async def _knock(client: ChatClient, seconds: float) -> None:
    body = json.dumps({"model": getattr(client, "model", None)}).encode()
    async with asyncio.timeout(seconds):
        async for _ in client.ask(ChatRequest(body, ChatOptions(), stream=False)):
            pass


def _understood(error: ServiceError) -> Check:
    """What a refusal says of the service: it is there if it misses the messages."""
    words = told(error)
    facts = {"status": error.status, "code": error.service_code}
    if isinstance(error, AuthenticationError):
        return problem("service", words, "", **facts)
    if isinstance(error, RateLimitError):
        return note("service", f"there, but it takes no more for now: {words}", "", **facts)
    if error.status in (400, 422) and any(word in words.lower() for word in _MISSED):
        return fine("service", _THERE, "", **facts)
    if error.status in (400, 422, 500, 501):
        advice = "That may be its way to say so; --ask asks a real question."
        return note("service", f"there, but it does not say that it misses messages: {words}", advice, **facts)
    return problem("service", words, "", **facts)


def _too_slow(client: ChatClient, seconds: float) -> Check:
    address = getattr(client, "address", None) or client.service
    advice = "Check the network and the proxy settings; --timeout SECONDS waits longer."
    return problem("service", f"{safe(address)} has not answered within {seconds:g} s", advice, seconds=seconds)


def asked(client: ChatClient, seconds: float) -> Check:
    """Ask the model for a few words."""
    began = time.monotonic()
    try:
        response = asyncio.run(_ask(client, seconds))
    except HoldfastError as error:
        return problem("service", told(error), code=error.code)
    took = time.monotonic() - began
    words = cut(one_line(response.text), 40) or "nothing"
    used = f" ({tokens(response.usage)})" if response.usage is not None else ""
    return fine("service", f"answered within {took:.1f} s: {words}{used}", seconds=round(took, 3))


async def _ask(client: ChatClient, seconds: float) -> AgentRunResponse:
    return await ChatAgent(client).run(_QUESTION, max_tokens=_LONGEST_WORDS, timeout=seconds)
