"""The floor plan: imports go down, are written in full and stand at the top; each library is let in at one door."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast

ROOT = Path(holdfast.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# The floors, from the ground up. What shares a floor does not import each other, but for the pairs named below.
FLOORS = {
    "conversation": 0,
    "ports": 1,
    "tools": 2,
    "engine": 3,
    "clients": 4,
    "stores": 4,
    "settings": 5,
    "testing": 5,
    "cli": 6,
    "__main__": 7,
}

# From a higher floor into a lower one, but not everywhere: clients make agents in one place, stores know no engine.
NARROW = {
    ("clients", "engine"): {"clients.base"},
    ("stores", "engine"): set(),
}

# Imports that wait until they are needed, each with its reason (ARCHITECTURE.md).
LAZY = {
    "__init__",  # the front door
    "settings",  # environment and URLs -> objects
    "clients.asking",  # from a client to the transport, which brings the HTTP library in
    "engine.toolkits",  # Python functions as tools, which bring pydantic in
    "engine.telemetry",  # spans and measurements, which bring OpenTelemetry's interface in
    "tools.mcp_extra",  # what needs the mcp package, which is an extra
    "engine.threads",  # the store of a thread that was given none
    "cli.main",  # a command's module is imported when the command is chosen
    "stores.sqlite_db",  # ctypes, in a forked child alone
}

# Which of our modules may import which library; everything else is the standard library or holdfast.
DOORS = {
    "msgspec": {""},
    "aiohttp": {"clients.transport", "testing."},
    "multidict": {"clients.transport", "testing."},  # comes with aiohttp, and is in its interface
    "yarl": {"clients.transport"},  # the same
    "apsw": {"stores.sqlite"},
    "pydantic": {"tools."},
    "pydantic_core": {"tools."},  # comes with pydantic, and is in its interface
    "griffe": {"tools."},
    "mcp": {"tools.mcp_"},
    "mcp_types": {"tools.mcp_"},  # comes with mcp, and is in its interface
    "anyio": {"tools.mcp_serving"},  # the same
    "httpx2": {"tools.mcp_links"},  # the same
    "uvicorn": {"tools.mcp_serving"},  # the same
    "opentelemetry": {"engine.spans"},
    "hypothesis": {"testing.state_machine"},
    "pytest": {"testing.contracts"},
}


def name_of(file: Path) -> str:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(file: Path) -> Iterator[tuple[str, bool, int]]:
    """(module, whether it stands at the top, line) of everything that a file imports."""
    tree = ast.parse(file.read_text())
    top = set()
    for node in tree.body:
        top.add(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            top.update(node.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in top, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            assert node.module
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & KNOWN
            for module in modules or {node.module}:
                yield module, node in top, node.lineno


KNOWN = {f"holdfast.{name_of(file)}" for file in FILES}


def floor(name: str) -> int:
    return FLOORS[name.split(".")[0]]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path) -> None:
    name = name_of(file)
    if name == "__init__":
        return
    for module, at_top, line in imports(file):
        if not module.startswith("holdfast."):
            continue
        other = module.removeprefix("holdfast.")
        place = f"{name}:{line} imports {other}"
        assert at_top or name in LAZY, f"{place} inside a function"
        mine, theirs = name.split(".")[0], other.split(".")[0]
        if not at_top or mine == theirs:
            continue
        assert floor(other) < floor(name), f"{place}: upwards"
        if (mine, theirs) in NARROW:
            assert name in NARROW[mine, theirs], f"{place}: that is done in one place only"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_libraries_come_in_by_their_doors(file: Path) -> None:
    name = name_of(file)
    for module, at_top, line in imports(file):
        library = module.split(".")[0]
        if library == "holdfast" or library in sys.stdlib_module_names:
            assert at_top or name in LAZY, f"{name}:{line} imports {module} inside a function"
            continue
        assert library in DOORS, f"{name}:{line} brings in {library}"
        assert any(name.startswith(door) for door in DOORS[library]), f"{name}:{line} imports {library}"


def test_nothing_imports_in_a_circle() -> None:
    graph = {
        name_of(file): {module.removeprefix("holdfast.") for module, _, _ in imports(file) if module in KNOWN}
        for file in FILES
        if name_of(file) != "__init__"
    }
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            walk(other, (*path, name))
        done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_module_opens_with_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), f"{file} has no docstring"
