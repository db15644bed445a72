"""Partner: who answers, and what to call him."""

from __future__ import annotations

import argparse

from holdfast.cli.terminal import one_line
from holdfast.ports.clients import ChatClient, ChatOptions
from holdfast.settings import client_from_environment

OFFLINE = "offline"


def chosen_client(options: argparse.Namespace) -> ChatClient:
    """The client that arguments and environment ask for. Raises ConfigurationError, also if no model is named."""
    client = client_from_environment(model=options.model, base_url=options.base_url)
    client.codec.tail(ChatOptions(), stream=True)  # asked now, and not at the first turn
    return client


def who_answers(client: ChatClient) -> str:
    """Which model, of which service, and where, in one safe line."""
    if client.service == OFFLINE:
        return "the offline partner: built-in rules, no language model"
    model, address = getattr(client, "model", None), getattr(client, "address", None)
    where = f"{client.service} at {address}" if address else client.service
    return one_line(f"{model} ({where})" if model else where)
