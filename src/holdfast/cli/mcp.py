"""`holdfast mcp`: an agent for the clients of the Model Context Protocol.

Rule of this file: stdout is the protocol's; whatever is told to a person goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import signal
import socket
import sys

from holdfast.cli import places
from holdfast.cli.partner import chosen_client
from holdfast.cli.terminal import safe
from holdfast.cli.trouble import FINE, Trouble, listen_to_log
from holdfast.engine.agents import ChatAgent
from holdfast.tools.mcp_extra import serving


def run(options: argparse.Namespace) -> int:
    """Serve until the client leaves, or a signal comes. Raises Trouble and HoldfastError before it begins."""
    listen_to_log(options.debug)
    module = serving()
    client = chosen_client(options)
    store = places.to_write(options.store)
    try:
        agent = ChatAgent(
            client, options.instructions, name=options.name, description=options.description, thread_store=store
        )
        server = module.make_server(agent)
        if options.http is None:
            # The thread that reads stdin cannot be interrupted. What a Ctrl-C cuts off is closed at the next use.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            asyncio.run(module.serve_stdio(server))
        else:
            asyncio.run(module.serve_http(server, _bound(options.http)))
    finally:
        store.close()
    return FINE


def _bound(place: str) -> socket.socket:
    """A socket at HOST:PORT; where it is, on stderr. Raises Trouble."""
    host, _, port = place.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise Trouble(f"--http takes HOST:PORT or PORT; got {place!r}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise Trouble(f"Cannot listen at {place}: {error.strerror or error}") from error
    name, number = bound.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    print(f"Listening at http://{safe(shown)}:{number}/mcp", file=sys.stderr, flush=True)
    if not ipaddress.ip_address(name).is_loopback:
        print("Whoever reaches this address can talk with the agent: nobody is asked who they are.", file=sys.stderr)
    return bound
