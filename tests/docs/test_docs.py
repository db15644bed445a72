"""The documentation, executed: what a page shows is what happens, and what it lists is what there is.

Every `python` block of README.md and docs/*.md runs: a page's blocks in order, in one namespace, on one event loop,
in an empty directory. `await` may stand at the top level. In an `sh` block the lines that run `holdfast` are run.
What readers do not see stands in an HTML comment on the line before a block:

    <!-- output -->           the block is what the blocks before it printed; `...` in it stands for anything
    <!-- sent -->             the block is the JSON body of the last request to the stand-in
    <!-- stand-in: a | b -->  while the block runs, OPENAI_* lead to a stand-in that answers a, then b, then echoes
    <!-- not run: why -->     the block is only compiled
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from inspect import CO_COROUTINE
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import apsw
import pytest

import holdfast
from holdfast.conversation import errors, messages, records
from holdfast.conversation.turns import Turn
from holdfast.testing.openai_chat import ChatCompletionsStandIn

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAPERS = [*PAGES, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"))]

# Public names that no page needs to mention, each with its reason.
UNMENTIONED: Mapping[str, str] = {}


# --- pages -----------------------------------------------------------------------------------------------------

_BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r"|output|sent|stand-in:.*|not run: .+")


class Block(NamedTuple):
    """A fenced block: its language, what the comment before it says, its text, and the line before its first."""

    kind: str
    note: str
    text: str
    line: int


def blocks_of(page: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(page):
        before = page.count("\n", 0, found.start("text"))
        yield Block(found["kind"], found["note"] or "", found["text"], before)


class Reader:
    """Somebody who reads a page from top to bottom and tries everything."""

    def __init__(self, path: str, runner: asyncio.Runner, opened: ExitStack) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.service: ChatCompletionsStandIn | None = None
        self._path = path
        self._runner = runner
        self._opened = opened
        self._printed = ""

    def read(self, page: str) -> None:
        assert page.count("```") == 2 * len(list(blocks_of(page))), f"{self._path}: a fence is not closed, or indented"
        for block in blocks_of(page):
            assert re.fullmatch(_NOTE, block.note), f"{self._path}:{block.line}: no such note: {block.note}"
            if block.note.startswith("not run: "):
                self._compiled(block)
            elif block.note == "output":
                self._compare(block)
            elif block.note == "sent":
                assert self.service is not None
                assert json.loads(block.text) == self.service.last.json, f"{self._path}:{block.line}"
            elif block.kind == "python":
                with self._surroundings(block.note), redirect_stdout(io.StringIO()) as out:
                    self._execute(block)
                self._printed += out.getvalue()
            elif block.kind == "sh":
                self._printed += "".join(map(_shell_output, commands_in(block.text)))

    @contextmanager
    def _surroundings(self, note: str) -> Iterator[None]:
        """The environment of a block: without OPENAI_*, or with those of the stand-in."""
        if not note.startswith("stand-in:"):
            yield
            return
        if self.service is None:
            self.service = self._opened.enter_context(ChatCompletionsStandIn())
        self.service.script(*filter(None, map(str.strip, note.removeprefix("stand-in:").split("|"))))
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("OPENAI_BASE_URL", self.service.base_url)
            environ.setenv("OPENAI_API_KEY", "sk-of-the-stand-in")
            environ.setenv("OPENAI_CHAT_MODEL_ID", "gpt-4o-mini")
            yield

    def _compiled(self, block: Block) -> CodeType:
        # Empty lines before it, so that a traceback names the line of the page.
        source = "\n" * block.line + block.text
        return compile(source, self._path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    def _execute(self, block: Block) -> None:
        code = self._compiled(block)
        if code.co_flags & CO_COROUTINE:
            self._runner.run(eval(code, self.namespace))
        else:
            exec(code, self.namespace)

    def _compare(self, block: Block) -> None:
        printed, self._printed = _trimmed(self._printed), ""
        shown = _trimmed(block.text)
        if not re.fullmatch(".*?".join(map(re.escape, shown.split("..."))), printed, re.DOTALL):
            assert printed == shown, f"{self._path}:{block.line} shows another output"


def _trimmed(text: str) -> str:
    """Without white space at the ends of lines and of the whole, which nobody sees."""
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip()


def commands_in(block: str) -> list[str]:
    """The command lines of a shell block that run holdfast."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if re.search(r"(?:^|[|;&]\s*)holdfast\b", line)]


def _shell_output(command: str) -> str:
    here = os.getcwd()
    theirs = ("OPENAI_", "AZURE_", "ANTHROPIC_", "XDG_")
    known = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environ = {**known, "HOME": here, "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "error"}
    given = f'holdfast() {{ "{sys.executable}" -m holdfast "$@"; }}\n{command}'
    done = subprocess.run(
        ["sh", "-c", given], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def read_page(name: str, text: str) -> Reader:
    """Read a page in the current directory."""
    with asyncio.Runner() as runner, ExitStack() as opened:
        reader = Reader(name, runner, opened)
        reader.read(text)
        if reader.service is not None:
            assert reader.service.refused == []
            assert reader.service.unused == 0
        return reader


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which one is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_does_what_it_shows(path: Path, here: Path) -> None:
    read_page(str(path), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    [
        '```python\nprint("one")\n```\n<!-- output -->\n```text\ntwo\n```\n',
        "```python\nimport asyncio\nawait asyncio.sleep(0)\nraise AssertionError\n```\n",
        "```sh\nholdfast nonsense\n```\n",
        "```python\npass\n",
        "<!-- stand-in: never asked for -->\n```python\npass\n```\n",
        "<!-- ouptut -->\n```text\n```\n",
    ],
    ids=[
        "another output",
        "a failing example",
        "a failing command",
        "an open fence",
        "an unused answer",
        "a misspelling",
    ],
)
def test_a_page_that_is_wrong_is_found_out(page: str, here: Path) -> None:
    with pytest.raises(AssertionError):
        read_page("made up", page)


# --- links and names -------------------------------------------------------------------------------------------


def anchors_in(page: str) -> set[str]:
    """The anchors that the headings of a page get."""
    headings = re.findall(r"^#+ (.*)$", re.sub(_BLOCK, "", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(_BLOCK, "", path.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{path.name} links to {link}"
        if anchor:
            assert anchor in anchors_in(file.read_text(encoding="utf-8")), f"{path.name} links to {link}"


def test_every_public_name_is_mentioned() -> None:
    told = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    unknown = {name for name in holdfast.__all__ if not re.search(rf"\b{name}\b", told)}
    assert unknown == set(UNMENTIONED)


# --- tables ----------------------------------------------------------------------------------------------------


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """What stands between a heading and the next one of its kind or a higher one."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", page(name), re.MULTILINE | re.DOTALL)
    assert found, f"{name} has no {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {index - 1 for index, line in enumerate(lines) if set(line) <= set("|-: ")}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for index, row in enumerate(cells) if index not in heads and index - 1 not in heads]


def named(cell: str) -> str:
    """The first thing in backticks."""
    found = re.match(r"`([^`]+)`", cell)
    assert found, f"{cell!r} names nothing"
    return found[1]


def below(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*(below(each) for each in kind.__subclasses__()))


def tree(kind: type[Exception], depth: int = 0) -> list[str]:
    inside = [line for each in kind.__subclasses__() for line in tree(each, depth + 1)]
    return ["  " * depth + kind.__name__, *inside]


def test_the_page_of_errors_draws_the_tree() -> None:
    drawn = next(block.text for block in blocks_of(page("errors.md")) if block.kind == "text")
    assert drawn.splitlines() == tree(errors.HoldfastError)


@pytest.mark.parametrize(
    ("heading", "branch"),
    [
        ("## Your side", errors.CallerError),
        ("## The service", errors.ServiceError),
        ("## The store", errors.StoreError),
    ],
)
def test_the_page_of_errors_tells_of_each(heading: str, branch: type[Exception]) -> None:
    told = rows(section("errors.md", heading))
    assert sorted(named(row[0]) for row in told) == sorted(below(branch))
    assert all(len(row) == 3 and row[1] and row[2] for row in told)
    for name, *_ in told:
        kind = getattr(errors, named(name))
        for other in (ValueError, LookupError, TimeoutError):
            assert issubclass(kind, other) == (f"also a `{other.__name__}`" in name)


# --- the stored form -------------------------------------------------------------------------------------------


def decoded(record: bytes) -> Turn:
    return records.decode_turn(record, turn_id="t", seq=1, status="completed", started_us=0, ended_us=0)


def encoded(turn: Turn) -> dict[str, Any]:
    record = records.encode_turn(
        records.encode_messages(turn.input),
        turn.output,
        usage=turn.usage,
        model=turn.model,
        service=turn.service,
        finish_reason=turn.finish_reason,
        error=turn.error,
    )
    return dict(json.loads(record))


def test_the_record_that_is_shown_is_one() -> None:
    shown = next(block for block in blocks_of(section("format.md", "## A record")) if block.kind == "json")
    assert encoded(decoded(shown.text.encode())) == json.loads(shown.text)
    fields = {named(row[0]) for row in rows(section("format.md", "## A record"))}
    assert fields == set(records._Record.__struct_fields__)
    of_messages = {named(row[0]) for row in rows(section("format.md", "## A message"))}
    assert of_messages == set(records._Message.__struct_fields__)


def test_every_kind_of_content_is_shown() -> None:
    told = rows(section("format.md", "## Kinds of content"))
    seen = set()
    for stored, kind, *_ in told:
        part = json.loads(named(stored))
        record = {"v": 1, "input": [{"role": "user", "contents": [part]}]}
        turn = decoded(json.dumps(record).encode())
        assert type(turn.input[0].contents[0]).__name__ == named(kind)
        assert encoded(turn) == record
        seen.add(named(kind))
    assert seen == {kind.__name__ for kind in messages.CONTENT_TYPES}


def test_the_hash_that_is_worked_out_is_ours(here: Path) -> None:
    worked = read_page("format.md", page("format.md")).namespace
    parent = records.ROOT
    for columns, record, shown in zip(worked["columns"], worked["records"], worked["hashes"], strict=True):
        names = ("seq", "turn_id", "key", "status", "reference", "started_us", "ended_us")
        parent = records.chain(parent, record=record, **dict(zip(names, columns, strict=True)))
        assert parent.hex() == shown
        assert encoded(decoded(record)) == json.loads(record)


def test_the_tables_that_are_described_are_those_of_the_database() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute((Path(holdfast.__file__).parent / "stores" / "sqlite.sql").read_text(encoding="utf-8"))
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    described = re.findall(r"^### `(\w+)`", section("format.md", "## The tables"), re.MULTILINE)
    assert sorted(described) == sorted(name for name in tables if not name.startswith("sqlite_"))
    for name in described:
        there = [column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
        assert [named(row[0]) for row in rows(section("format.md", f"### `{name}`"))] == there
    connection.close()
