"""Bell: how processes that share a database call each other, and tell that they are alive.

A datagram says in a fraction of a millisecond that a thread is free, or that a run is to stop; a beat in the database
says every few seconds that a process with runs is not stopped. Rule of this file: both are hints. A datagram that is
lost, forged or comes twice only makes somebody look; what decides is in the transactions.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import msgspec

log = logging.getLogger("holdfast.stores")

# A process with open runs beats so often, and one whose beat has not changed for so long has lost its runs.
BEAT_SECONDS, LEASE_SECONDS = 2.5, 10.0

# What a call is about, and the run that it is for: tenant, thread id, turn id.
Kind: TypeAlias = Literal["free", "stop"]
Call: TypeAlias = tuple[Kind, str, str, str]

_decode = msgspec.json.Decoder(Call).decode


class Bell:
    """This process's ear: a datagram socket that nobody outside the machine can reach.

    It does not keep alive whom it calls.
    """

    def __init__(self, owner: int, heard: Callable[[Call], object]) -> None:
        """Listen under the owner's number; the method `heard` is called with what was said. Raises OSError."""
        self._heard = weakref.WeakMethod(heard)
        self._process = os.getpid()
        self._closing = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if sys.platform == "linux":
            self.address = f"@holdfast-{owner:x}"  # abstract: no file, gone with the process
        else:
            self.address = os.path.join(tempfile.gettempdir(), f"holdfast-{owner:x}")
        self._socket.bind(_bound(self.address))
        self._thread = threading.Thread(target=self._listen, name="holdfast-bell", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                message = self._socket.recv(4096)
            except OSError:
                return
            if self._closing:
                return
            heard = self._heard()
            if heard is None:
                return
            try:
                heard(_decode(message))
            except (msgspec.DecodeError, UnicodeError):
                log.debug("a datagram that is no call was dropped")
            except Exception as error:
                log.warning("a call could not be followed (%s)", type(error).__name__)
            del heard

    def close(self) -> None:
        """Stop listening; in a forked child only here, for the address is the parent's."""
        if self._process != os.getpid():
            self._socket.close()
            return
        self._closing = True
        ring(self.address, b"")
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=1)
        self._socket.close()
        if not self.address.startswith("@"):
            os.unlink(self.address)


def call(address: str, *said: str) -> None:
    """Ring at another process: a `Call`."""
    ring(address, msgspec.json.encode(said))


def ring(address: str, message: bytes) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message, _bound(address))
    except OSError as error:
        log.debug("nobody heard the call at %s: %s", address, error)


def _bound(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address


class Beating(Protocol):
    """What has a pulse."""

    def beat(self) -> None: ...


class Beat:
    """Calls `beat` every few seconds from a thread of its own, so that a blocked event loop does not lose its runs.

    It does not keep alive what it calls, and ends with it.
    """

    def __init__(self, beating: Beating) -> None:
        self._beating = weakref.ref(beating)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdfast-beat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            beating = self._beating()
            if beating is None:
                return
            try:
                beating.beat()
            except Exception as error:
                log.warning("a beat failed (%s); the next one is tried", type(error).__name__)
            del beating

    def close(self) -> None:
        self._stop.set()
