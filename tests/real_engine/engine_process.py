"""The engine as the tests see it: a process that is started, asked over HTTP, and killed."""

from __future__ import annotations

import http.client
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

# Tokens. Large enough for ten rounds of tool calls, small enough to be filled within a moment.
CONTEXT_SIZE = 3072
_PATIENCE = 60.0


class Engine:
    """A server that runs."""

    def __init__(self, address: str) -> None:
        self.base_url = f"{address}/v1"
        self._host = urlsplit(address).netloc

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection(self._host, timeout=_PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        assert response.status == 200, f"{path}: {response.status} {body}"
        return body

    def steps(self) -> int:
        """How often the network was computed since the start: about once for each token of an answer."""
        found = re.search(r"^llamacpp:n_decode_total (\d+)", self.get("/metrics"), re.MULTILINE)
        assert found
        return int(found[1])


@contextmanager
def running_engine(directory: Path) -> Iterator[Engine]:
    """An engine that is ready to answer; its model is kept in `directory`. Raises RuntimeError if it does not start."""
    command = [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(directory), str(CONTEXT_SIZE)]
    complaints = directory / "stderr"
    with (
        complaints.open("wb") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            assert process.stdout is not None
            came, _, _ = select.select([process.stdout], [], [], _PATIENCE)
            address = process.stdout.readline().decode().strip() if came else ""
            if not address:
                raise RuntimeError(
                    "The engine did not start; is xllamacpp there (pip install -e '.[test]')? It said:\n"
                    + complaints.read_text(errors="replace")[-2000:]
                )
            engine = Engine(address)
            engine.get("/health")
            yield engine
        finally:
            process.kill()
