"""Environments: the peers, their pinned versions, and a Python for each that has nothing else installed.

Rule of this file: packages come from wherever pip is set up to take them from.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

# The newest on 2026-11-22; of langchain, which has LangGraph's ready-made agent, the newest whose dependencies could
# be had. What they depend on is as new as they let it be.
PINS = {
    "langgraph": ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2", "langchain==1.4.7"),
    "openai_agents": ("openai-agents==0.24.0",),
}
_MADE = "made.txt"


def python_for(peer: str, folder: Path) -> Path:
    """The Python of a peer's environment in this folder; it is made if it is not there with these versions."""
    if peer not in PINS:
        return Path(sys.executable)
    home, pins = folder / peer, PINS[peer]
    python, made = home / "bin" / "python", home / _MADE
    if made.exists() and made.read_text().split() == list(pins):
        return python
    print(f"installing {' '.join(pins)} into {home}", file=sys.stderr, flush=True)
    venv.EnvBuilder(with_pip=True, clear=True).create(home)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    made.write_text("\n".join(pins))
    return python
