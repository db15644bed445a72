"""`holdfast doctor`: what it finds, that it says no secret, and that it changes nothing."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

from holdfast import AgentThread, ChatMessage, SQLiteStore
from holdfast.cli.check_store import amount, file_system
from holdfast.cli.check_system import has_wal_fix, sqlite
from holdfast.testing.azure_openai import AzureOpenAIStandIn
from holdfast.testing.openai_chat import ChatCompletionsStandIn, Fail, Hang, Say

HOSTILE = "it's%41?mode=rwc#é\u202e\x1b[31m"
KEY = "sk-a-secret-of-the-test"


def lines(done):
    """What was printed: the lines of each name."""
    found = {}
    for line in done.stdout.splitlines():
        state, name, told = re.fullmatch(r"(ok|note|problem) +(in use|\S+) +(.+)", line).groups()
        found.setdefault(name, []).append((state, told))
    return found


def files(folder):
    """Everything about the files in a folder that anybody could change."""
    return {
        (
            path.name,
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
async def store(tmp_path):
    """A store with a thread of two turns, closed."""
    store = SQLiteStore(tmp_path / "chats.db")
    await AgentThread(store, "a thread").add_messages([ChatMessage("user", text=text) for text in ("one", "two")])
    store.close()
    return tmp_path / "chats.db"


# --- what is set up --------------------------------------------------------------------------------------------


def test_nothing_is_set_up(holdfast, tmp_path):
    done = holdfast("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    found = lines(done)
    assert list(found) == [
        *("holdfast", "python", "system", "packages", "sqlite"),
        *("store", "writing", "settings", "answers", "service"),
    ]
    assert found["sqlite"][0][1].endswith("which has the fix of the WAL-reset bug")
    made = f"there is none yet: {tmp_path}/data/holdfast/threads.db; the first chat makes it"
    assert found["store"] == [("note", made)]
    assert found["writing"] == [("ok", "it can be made")]
    ((state, told),) = found["answers"]
    assert state == "note"
    assert told.startswith("the offline partner: built-in rules, no language model -> For a model set OPENAI_API_KEY")
    assert found["service"] == [("ok", "none to reach: the partner is built in")]
    assert list(tmp_path.iterdir()) == []


def test_settings_are_named_and_never_shown(home, holdfast, service, tmp_path):
    home.update(OPENAI_API_KEY=KEY, OPENAI_API_BASE="http://nobody", https_proxy="http://me:pass@proxy", NO_PROXY="*")
    (tmp_path / ".env").write_text(
        f"OPENAI_API_KEY={KEY}-of-the-file\nOPENAI_BASE_URL={service.base_url}\nOPENAI_CHAT_MODEL_ID=theirs\n"
    )
    done = holdfast("doctor", "--json")
    assert done.returncode == 0
    assert KEY not in done.stdout + done.stderr
    assert "pass" not in done.stdout
    state = json.loads(done.stdout)
    assert state["state"] == "note"
    checks = [check for check in state["checks"] if check["name"] in ("settings", "answers", "service")]
    here = [name for name in checks[0]["facts"]["environment"] if not name.startswith("SSL_CERT")]
    assert here == ["OPENAI_API_KEY", "https_proxy", "NO_PROXY", "XDG_DATA_HOME"]
    assert checks[0]["facts"]["file"] == ["OPENAI_CHAT_MODEL_ID", "OPENAI_BASE_URL"]
    assert checks[0]["facts"]["hidden"] == ["OPENAI_API_KEY"]
    assert checks[1]["facts"] == {"unread": ["OPENAI_API_BASE"]}
    assert "OPENAI_BASE_URL" in checks[1]["advice"]
    address = service.base_url.removesuffix("/v1")
    assert checks[2]["told"] == f"theirs (openai at {address}), by OPENAI_API_KEY"
    assert checks[2]["facts"]["model"] == "theirs"
    assert checks[3]["told"] == "there, and lets us in; no model was run"
    assert f"Bearer {KEY}" not in repr(service.last)


def test_who_is_chosen_and_why(home, commands, tmp_path):
    (tmp_path / ".env").write_text("no settings at all\n")
    base = ("doctor", "--no-network")
    home["OPENAI_API_KEY"] = KEY
    unnamed, argument, wrong, bad = commands(
        base,
        (*base, "--model", "m", "--base-url", "http://[::1]:9/v1"),
        (*base, "--model", "m", "--base-url", "ftp://x"),
        (*base, "--timeout", "0"),
    )
    assert unnamed.returncode == wrong.returncode == 1
    assert ("note", "the .env file here says nothing that can be read -> Its lines are like NAME=value.") in lines(
        unnamed
    )["settings"]
    ((state, told),) = lines(unnamed)["answers"]
    assert state == "problem"
    assert "set OPENAI_CHAT_MODEL_ID" in told
    assert "service" not in lines(unnamed)
    assert lines(argument)["answers"] == [("ok", "m (openai at http://[::1]:9), by --base-url")]
    assert lines(argument)["service"] == [("note", "left alone (--no-network)")]
    assert "base URL does not begin with" in lines(wrong)["answers"][0][1]
    assert bad.returncode == 2
    assert KEY not in unnamed.stdout + argument.stdout + wrong.stdout


# --- the service -----------------------------------------------------------------------------------------------


def test_the_service_is_asked_for_nothing_that_costs(commands, service):
    there = ("doctor", "--model", "m", "--base-url", service.base_url)
    service.script(Say("O\x1b[31mK"))
    knocked, left, asked = commands(there, (*there, "--no-network"), (*there, "--ask"))
    assert lines(knocked)["service"] == [("ok", "there, and lets us in; no model was run")]
    assert left.returncode == 0
    first, second = service.requests
    assert first.json == {"model": "m"}
    assert first.status == 400
    assert second.json["messages"] == [{"role": "user", "content": "Say OK, and nothing else."}]
    assert re.fullmatch(r"answered within \S+ s: O␛\[31mK \(.* tokens in, .* out\)", lines(asked)["service"][0][1])


def test_what_a_service_may_say(home, commands):
    home["OPENAI_API_KEY"] = KEY
    with ChatCompletionsStandIn(rules=()) as lax, ChatCompletionsStandIn(api_key="another") as strict:
        complaint = Fail(400, message="api-version?", headers={"x-should-retry": "false"})
        lax.script(
            Fail(429, headers={"x-should-retry": "false"}),
            Fail(500, headers={"x-should-retry": "false"}),
            complaint,
            Fail(503, headers={"x-should-retry": "false"}),
            Hang(after=0),
        )
        base = ("doctor", "--model", "m", "--base-url")
        done = commands(
            *((*base, lax.base_url) for _ in range(4)),
            (*base, lax.base_url, "--timeout", "0.3"),
            (*base, strict.base_url),
            (*base, strict.base_url, "--ask"),
            (*base, lax.base_url.removesuffix("/v1")),
        )
    states = [(each.returncode, *lines(each)["service"][0]) for each in done]
    assert [(code, state) for code, state, _ in states] == [(0, "note")] * 3 + [(1, "problem")] * 5
    words = ["takes no more for now", "--ask asks a real question", "api-version?", "failed or is overloaded"]
    words += ["has not answered within 0.3 s", "does not accept the credential", "does not accept the credential"]
    words += ["no such model or address"]
    for (_, _, told), expected in zip(states, words, strict=True):
        assert expected in told
        assert KEY not in told


def test_azure(home, holdfast, monkeypatch):
    with AzureOpenAIStandIn(api_key=KEY) as service:
        home.update(AZURE_OPENAI_ENDPOINT=service.endpoint, AZURE_OPENAI_CHAT_DEPLOYMENT_NAME="chat")
        home.update(AZURE_OPENAI_API_KEY=KEY)
        found = lines(holdfast("doctor"))
    assert found["answers"] == [("ok", f"chat (azure-openai at {service.endpoint}), by AZURE_OPENAI_ENDPOINT")]
    assert found["service"] == [("ok", "there, and lets us in; no model was run")]


# --- the store -------------------------------------------------------------------------------------------------


def test_a_store_is_looked_at_and_left_as_it_is(commands, store, tmp_path, in_the_middle):
    look = ("doctor", "--no-network", "--store", "chats.db")
    before = files(tmp_path)
    (closed,) = commands(look)
    assert files(tmp_path) == before
    assert closed.returncode == 0
    ((_, told),) = lines(closed)["store"]
    assert told.startswith(f"{store}: 1 thread, 2 turns, ")
    assert told.endswith("kB, tables of version 1")
    assert lines(closed)["turns"] == [("ok", "none is open")]
    assert lines(closed)["writing"] == [("ok", "it may be written")]

    alive = in_the_middle("alive;\u202e␛ 'x'")
    dead = in_the_middle("dead")
    dead.kill()
    dead.wait(20)
    before = files(tmp_path)
    open_, state = commands(look, (*look, "--json"))
    assert files(tmp_path) == before
    assert "3 threads, 2 turns" in lines(open_)["store"][0][1]
    assert "and a log of" in lines(open_)["store"][0][1]
    assert lines(open_)["in use"][0][1].startswith("by 1 program: ")
    assert f":{alive.pid}" in lines(open_)["in use"][0][1]
    ((kind, told),) = lines(open_)["turns"]
    assert kind == "note"
    assert told.startswith("1 turn left open by a program that was ended amid an answer, on dead -> Nothing needs")
    facts = {check["name"]: check["facts"] for check in json.loads(state.stdout)["checks"]}
    assert facts["turns"] == {"open": 2, "left": [{"thread": "dead", "turn": "turn_of_dead"}]}
    assert facts["store"]["threads"] == 3
    assert facts["writing"] == {"writable": True}


def test_files_that_were_copied_without_the_index(commands, store, tmp_path, in_the_middle):
    in_the_middle("a thread")
    (tmp_path / "copy").mkdir()
    for ending in ("", "-wal"):
        shutil.copy(f"{store}{ending}", tmp_path / "copy")
    before = files(tmp_path / "copy")
    (done,) = commands(("doctor", "--no-network", "--store", "copy/chats.db"))
    assert files(tmp_path / "copy") == before
    assert done.returncode == 0
    assert lines(done)["store"][0][0] == "note"
    assert "not looked into -> The next use takes the log in." in lines(done)["store"][0][1]


def test_what_is_no_sound_store(commands, store, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear Ada, this is no database. " * 50)
    (tmp_path / "empty.db").touch()
    (tmp_path / "loop.db").symlink_to("loop.db")
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        theirs.execute("CREATE TABLE t (x)")
    theirs.close()
    for name, change in (("newer.db", "PRAGMA user_version = 99"), ("open.db", "PRAGMA user_version = 1")):
        shutil.copy(store, tmp_path / name)
        with sqlite3.connect(tmp_path / name) as database:
            database.execute(change)
        database.close()
    os.chmod(tmp_path / "open.db", 0o644)
    shutil.copy(store, tmp_path / HOSTILE)
    whole = store.read_bytes()
    (tmp_path / "damaged.db").write_bytes(whole[:4096] + b"\xa5" * 4096 + whole[8192:])
    (tmp_path / "cut.db").write_bytes(whole[:5000])
    before = files(tmp_path)
    expected = {
        "letter.txt": ("problem", "is no database"),
        "theirs.db": ("problem", "is a database of another program"),
        "newer.db": ("problem", "written by a newer holdfast (tables of version 99"),
        "damaged.db": ("problem", "damaged"),
        "cut.db": ("problem", "damaged"),
        ".": ("problem", "is no file"),
        "redis://x": ("problem", "names no store"),
        "sqlite:///../x?y": ("problem", "names no file"),
        "typo.db": ("note", "there is none yet"),
        "nowhere/typo.db": ("note", "there is none yet"),
        "loop.db": ("note", "there is none yet"),
        "empty.db": ("ok", "empty: the first chat makes its tables"),
        "open.db": ("ok", "1 thread, 2 turns"),
        HOSTILE: ("ok", "1 thread, 2 turns"),
        "memory:": ("note", "gone when the program ends"),
    }
    done = commands(*(("doctor", "--no-network", "--store", place) for place in expected))
    for each, (place, (state, words)) in zip(done, expected.items(), strict=True):
        assert each.stderr == "", place
        found = lines(each)
        assert found["store"][0][0] == state, place
        assert words in found["store"][0][1], place
        assert each.returncode == (state == "problem"), place
        assert "answers" in found, place
    assert files(tmp_path) == before
    assert lines(done[-3])["rights"][0][1].startswith("others on this machine may use the file (mode 644)")


def test_a_folder_that_may_not_be_written(home, store, tmp_path):
    """As somebody who is not root, for whom nothing is read-only."""
    folder = tmp_path / "data" / "holdfast"
    folder.mkdir(parents=True)
    shutil.copy(store, folder / "threads.db")
    (folder / "threads.db").chmod(0o644)
    for place in (tmp_path, *tmp_path.parents):
        if place.name.startswith(("pytest-", "popen-")) or place == tmp_path:
            place.chmod(0o755)
    folder.chmod(0o555)
    program = (
        "import contextlib, io, os, sys\n"
        "from holdfast.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['doctor'])\n"  # Python may be out of reach afterwards
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "main(['doctor'])\n"
        f"sys.exit(main(['doctor', '--store', {str(folder / 'new.db')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=home, cwd="/", capture_output=True, text=True)
    folder.chmod(0o755)
    assert done.returncode == 1, done.stderr
    found = lines(done)
    assert found["writing"] == [
        ("problem", f"{folder} may not be written -> Mend the rights, or choose another place with --store."),
        (
            "problem",
            f"it cannot be made: {folder} is no folder that may be written -> "
            "Mend the rights of that folder, or choose another place with --store.",
        ),
    ]
    assert "1 thread, 2 turns" in found["store"][0][1]


def test_a_data_directory_that_cannot_be_made(holdfast, tmp_path):
    (tmp_path / "data").write_text("a file")
    done = holdfast("doctor")
    assert done.returncode == 1
    assert "it cannot be made" in lines(done)["writing"][0][1]


# --- how it looks ----------------------------------------------------------------------------------------------


def test_for_people_it_is_aligned_and_fits(terminal, tmp_path):
    doctor = terminal("doctor", columns=70, TERM="dumb")
    assert doctor.end() == 0
    *shown, empty, summary = doctor.seen.splitlines()
    assert (empty, summary) == ("", "No problems, 2 notes.")
    assert all(re.match(r"((ok|note|problem) +\w+|) +\S", line) and line[18] == " " for line in shown)
    assert all(len(line) <= 70 or " " not in line[19:] for line in shown)


# --- pure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        *(("3.7.0", False), ("3.40.1", False), ("3.44.5", False), ("3.45.9", False), ("3.51.2", False)),
        *(("3.44.6", True), ("3.50.7", True), ("3.51.3", True), ("3.54.1", True), ("4.0.0", True)),
    ],
)
def test_which_sqlites_have_the_fix(version, fixed):
    assert has_wal_fix(version) == fixed
    assert sqlite(version).state == ("ok" if fixed else "problem")


def test_file_systems():
    mounts = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:40 / /home/a\\040b rw - nfs4 server:/export rw\n"
        "24 22 0:41 / /home/a\\040b/c rw - tmpfs none rw\n"
        "not a line\n"
    )
    places = ("/x", "/home/a b", "/home/a b/d", "/home/a b/c/d", "/home/a bc")
    assert [file_system(place, mounts) for place in places] == ["ext4", "nfs4", "nfs4", "tmpfs", "ext4"]
    assert file_system("/x", "") == ""


def test_amounts():
    assert [amount(n) for n in (0, 999, 1000, 12_345, 2_500_000, 3e12, 5e15)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "12 kB", "2.5 MB", "3 TB", "5,000 TB")
    ]
