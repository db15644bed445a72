"""A stub of the Azure CLI: a tiny `az` program, which azure-identity's own AzureCliCredential starts for a token."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

# It is started in /bin (azure-identity sees to that), so its files are named by whole paths.
_PROGRAM = """#!/bin/sh
echo "$*" >> '{folder}/calls'
sleep "$(cat '{folder}/delay')"
if [ -s '{folder}/failure' ]; then cat '{folder}/failure' >&2; exit 1; fi
cat '{folder}/answer'
"""


class StubAz:
    """An `az` on PATH, before any real one. What it does may be changed between two calls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        program = folder / "az"
        program.write_text(_PROGRAM.format(folder=folder))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.fails("")
        self.takes(0)

    def gives(self, token: str, *, lasts: float = 3600, only_local_time: bool = False) -> None:
        """The token of the next calls. Old versions of `az` tell its end in local time only."""
        ends = int(time.time() + lasts)
        answer: dict[str, object] = {
            "accessToken": token,
            "expiresOn": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime(ends)),
            "tenant": "00000000-0000-0000-0000-000000000000",
            "tokenType": "Bearer",
        }
        if not only_local_time:
            answer["expires_on"] = ends
        (self._folder / "answer").write_text(json.dumps(answer))

    def fails(self, words: str) -> None:
        """What it complains about from now on; an empty text: it works."""
        (self._folder / "failure").write_text(words)

    def takes(self, seconds: float) -> None:
        (self._folder / "delay").write_text(str(seconds))

    @property
    def calls(self) -> list[str]:
        """The arguments of each call so far."""
        file = self._folder / "calls"
        return file.read_text().splitlines() if file.exists() else []
