"""Arguments, help and exit codes: right, and cheap."""

import os
import resource
import subprocess
import sys

import holdfast as package

# What the issue allows. A test machine may be busy, but CPU time is not wall time.
BUDGET_SECONDS = 0.15


def test_version(holdfast):
    done = holdfast("--version")
    assert (done.stdout, done.returncode) == (f"holdfast {package.__version__}\n", 0)


def test_help(commands):
    actions = ("list", "show", "branches", "fork", "rewind", "switch", "stop", "rename", "export", "delete")
    each = [("chat",), ("threads",), ("doctor",), *(("threads", action) for action in actions)]
    for done in commands(("--help",), *((*arguments, "--help") for arguments in each)):
        assert done.returncode == 0
        assert done.stdout.startswith("usage: ")
        assert done.stderr == ""
        assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_costs_next_to_nothing(home):
    def cpu() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "holdfast", "--help"], env=home, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    best = min(cpu() for _ in range(5))
    print(f"holdfast --help: {best * 1000:.0f} ms of CPU")
    assert best < BUDGET_SECONDS


def test_help_imports_none_of_it(home):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "holdfast", "--help"], env=home, capture_output=True, text=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "holdfast.cli.main" in loaded
    assert not loaded & {"asyncio", "msgspec", "apsw", "aiohttp", "logging", "holdfast.settings", "holdfast.engine"}


def test_wrong_usage_is_2(commands):
    wrong = [
        (),
        ("nonsense",),
        ("threads",),
        ("threads", "show"),
        ("threads", "list", "--limit", "0"),
        ("threads", "rename", "a"),
        ("threads", "rewind", "a", "-1"),
        ("threads", "switch", "a"),
        ("threads", "export", "a", "--format", "yaml"),
        ("chat", "--thread", "a", "--continue"),
        ("chat", "--mod", "x"),
        ("doctor", "--ask", "--no-network"),
        ("doctor", "--timeout", "soon"),
    ]
    for done, arguments in zip(commands(*wrong), wrong, strict=True):
        assert done.returncode == 2, arguments
        assert done.stdout == ""
        assert "usage: " in done.stderr


def test_an_error_is_a_line_and_1(holdfast):
    done = holdfast("chat", "--store", "redis://x")
    assert done.returncode == 1
    assert done.stderr.startswith("holdfast: 'redis://x' names no store.")
    assert done.stderr.count("\n") == 1


def test_debug_shows_where(holdfast):
    done = holdfast("chat", "--debug", "--store", "redis://x")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_full_disk_is_told(home):
    program = [sys.executable, "-m", "holdfast", "chat", "--store", "memory:"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, input=b"?\n", env=home, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"holdfast: No space left on device"


def test_closed_streams_do_no_harm(home):
    """As after `>&-` in a shell: there is no stdout at all."""
    program = f'exec "{sys.executable}" -m holdfast threads list <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", program], env=home).returncode == 1


def test_a_data_directory_that_cannot_be_made(home, holdfast, tmp_path):
    (tmp_path / "data").write_text("a file")
    assert home["XDG_DATA_HOME"] == os.fspath(tmp_path / "data")
    done = holdfast("chat")
    assert done.returncode == 1
    assert done.stderr == f"holdfast: Not a directory: {tmp_path}/data/holdfast\n"
