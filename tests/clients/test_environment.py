"""The environment and the `.env` file below it: what is read, what is passed over, and that nothing gets out."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from holdfast import OfflineChatClient, OpenAIChatClient
from holdfast.clients.azure_openai import AzureOpenAIChatClient
from holdfast.clients.environment import dotenv, environment, variables
from holdfast.conversation.errors import ConfigurationError
from holdfast.settings import client_from_environment

KEY = "sk-canary-0123456789abcdef"


@pytest.fixture(autouse=True)
def _own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests write `.env` files of their own, in folders of their own."""
    monkeypatch.setattr("holdfast.clients.environment.FILE", ".env")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A=", ""),
        ("A=b c", "b c"),
        ("  A =  b  ", "b"),
        ("export A=b", "b"),
        ("export\tA=b", "b"),
        ("A=b\r", "b"),
        ("A=b # a comment", "b"),
        ("A=b#c", "b#c"),
        ("A=#c", "#c"),
        ("A= # a comment", ""),
        ("A=b=c==", "b=c=="),
        ("A='b # c'", "b # c"),
        ("A='$B \\n'", "$B \\n"),
        ("A='b' # a comment", "b"),
        ("A='b'# a comment", "b"),
        ('A="b # c"', "b # c"),
        ('A="b\\"c\\\\d\\ne\\tf\\q"', 'b"c\\d\ne\tf\\q'),
        ('A="it\'s"', "it's"),
        ('A = "b" ', "b"),
        ("A=it's", "it's"),
        ("A=${HOME}", "${HOME}"),
        ("A=1\nA=2", "2"),
        ("A=ünïcode", "ünïcode"),
        ("A=''", ""),
    ],
)
def test_lines_that_set_something(line: str, value: str) -> None:
    assert variables(line) == {"A": value}


@pytest.mark.parametrize(
    "line", ["", "# A=b", "A", "=b", "A B=c", "1A=b", "A-B=c", "export", 'A="b', "A='b", 'A="b" c', "A='b'c", "A: b"]
)
def test_lines_that_are_passed_over(line: str) -> None:
    assert variables(line) == {}
    assert variables(f"X=1\n{line}\nY=2") == {"X": "1", "Y": "2"}


def test_a_quote_that_is_never_closed_takes_no_time() -> None:
    began = time.perf_counter()
    assert variables('A="' + "\\a" * 200_000) == {}
    assert variables("A=" + " " * 200_000 + "b") == {"A": "b"}
    assert time.perf_counter() - began < 5


def test_the_file_of_this_directory_only(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".env").write_bytes(b"\xef\xbb\xbfA=b\nB=\xff\n")
    assert dotenv() == {"A": "b", "B": "\ufffd"}
    below = here / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert dotenv() == {}


def test_what_is_no_file_is_passed_over(here: Path) -> None:
    os.mkfifo(here / ".env")  # nobody writes into it: who opened it as a file would wait for ever
    assert dotenv() == {}
    (here / ".env").unlink()
    (here / ".env").mkdir()
    assert dotenv() == {}
    (here / ".env").rmdir()
    (here / ".env").write_text("A=b\n" + "#" * (1 << 20))
    assert dotenv() == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_passed_over(here: Path) -> None:
    (here / ".env").write_text("A=b")
    (here / ".env").chmod(0)
    assert dotenv() == {}


def test_the_environment_hides_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".env").write_text("HF_ONE=file\nHF_TWO=file\nHF_THREE=file\n")
    monkeypatch.setenv("HF_ONE", "process")
    monkeypatch.setenv("HF_TWO", "")
    known = environment()
    assert (known["HF_ONE"], known["HF_TWO"], known["HF_THREE"]) == ("process", "", "file")
    assert "HF_THREE" not in os.environ


def test_openais_client_takes_it_from_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"OPENAI_API_KEY={KEY}", "OPENAI_BASE_URL=https://file.example/v1", "OPENAI_CHAT_MODEL_ID=from-file"]
    (here / ".env").write_text("\n".join(lines))
    client = OpenAIChatClient()
    assert (client.model, client.address) == ("from-file", "https://file.example")
    monkeypatch.setenv("OPENAI_CHAT_MODEL_ID", "from-environment")
    client = OpenAIChatClient(base_url="https://argument.example/v1")
    assert (client.model, client.address) == ("from-environment", "https://argument.example")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIChatClient("m")


def test_nothing_of_the_file_gets_out(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (here / ".env").write_text(f"OPENAI_API_KEY='{KEY}'\nCANARY=canary\n")
    before = dict(os.environ)
    client = OpenAIChatClient("m")
    assert os.environ == before
    assert "canary" not in repr(client) + repr(vars(client)) + caplog.text
    (here / ".env").write_text(f"OPENAI_API_KEY='{KEY} '\n")
    with pytest.raises(ConfigurationError, match="strip") as caught:
        OpenAIChatClient("m")
    assert "canary" not in str(caught.value)


class TestWhichClient:
    """`settings.client_from_environment`: whoever says first which service it is, decides."""

    AZURE = "AZURE_OPENAI_ENDPOINT=https://res.openai.azure.com\nAZURE_OPENAI_CHAT_DEPLOYMENT_NAME=chat\n"

    def test_nobody(self, here: Path) -> None:
        assert isinstance(client_from_environment(), OfflineChatClient)
        (here / ".env").write_text("AZURE_OPENAI_API_KEY=k\nAZURE_OPENAI_CHAT_DEPLOYMENT_NAME=chat\nOPENAI_API_KEY=\n")
        assert isinstance(client_from_environment(), OfflineChatClient)

    def test_a_model_alone_asks_for_openais_key(self) -> None:
        with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
            client_from_environment(model="m")

    def test_azure_by_file(self, here: Path) -> None:
        (here / ".env").write_text(self.AZURE + f"AZURE_OPENAI_API_KEY={KEY}")
        client = client_from_environment()
        assert isinstance(client, AzureOpenAIChatClient)
        assert (client.model, client.address) == ("chat", "https://res.openai.azure.com")
        client = client_from_environment(model="other")
        assert isinstance(client, AzureOpenAIChatClient)
        assert client.model == "other"

    def test_a_base_url_is_an_argument(self, here: Path) -> None:
        (here / ".env").write_text(self.AZURE + f"AZURE_OPENAI_API_KEY={KEY}")
        client = client_from_environment(model="m", base_url="http://localhost:1/v1")
        assert isinstance(client, OpenAIChatClient)

    def test_openai_goes_before_azure_in_the_same_place(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / ".env").write_text(self.AZURE + f"AZURE_OPENAI_API_KEY={KEY}\nOPENAI_API_KEY={KEY}\n")
        assert isinstance(client_from_environment(), OpenAIChatClient)
        monkeypatch.setenv("OPENAI_API_KEY", "")  # the file's is switched off
        assert isinstance(client_from_environment(), AzureOpenAIChatClient)

    def test_the_environment_goes_before_the_file(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / ".env").write_text(f"OPENAI_API_KEY={KEY}\nAZURE_OPENAI_CHAT_DEPLOYMENT_NAME=chat\n")
        monkeypatch.setenv("AZURE_OPENAI_BASE_URL", "https://gateway.example/openai/v1")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
        assert isinstance(client_from_environment(), AzureOpenAIChatClient)
        monkeypatch.setenv("OPENAI_BASE_URL", "https://compatible.example/v1")
        assert isinstance(client_from_environment(), OpenAIChatClient)

    def test_something_is_set_but_not_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://res.openai.azure.com")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
        with pytest.raises(ConfigurationError, match="AZURE_OPENAI_CHAT_DEPLOYMENT_NAME"):
            client_from_environment()

    def test_without_azure_identity_and_without_a_key(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        (here / ".env").write_text(self.AZURE)
        monkeypatch.setitem(sys.modules, "azure.identity", None)
        with pytest.raises(ConfigurationError, match=r"AZURE_OPENAI_API_KEY.*holdfast\[azure\]"):
            client_from_environment()
