"""AzureOpenAIChatClient: addresses and credentials, tokens that are kept, renewed and refused, and the content filter.

Through real sockets against the strict stand-in. The credentials are azure-identity's own over a stub `az`, or small
ones that do what credentials do: take long, expire, fail.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AccessTokenInfo, AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.identity import AzureCliCredential, get_bearer_token_provider
from azure.identity import aio as identity_aio
from raw_server import Wire, asked, http, request, said, until_it_fails
from stub_az import StubAz

from holdfast import AzureOpenAIChatClient, MemoryStore, OpenAIChatClient
from holdfast.clients.azure_endpoints import SCOPE
from holdfast.conversation.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContentFilteredError,
    InvalidInputError,
    RateLimitError,
    ServiceError,
    ServiceProtocolError,
    ServiceUnavailableError,
)
from holdfast.conversation.updates import Answer
from holdfast.ports.clients import ChatClient, ChatOptions
from holdfast.settings import client_from_environment
from holdfast.testing.azure_openai import AzureOpenAIStandIn, BlockPrompt
from holdfast.testing.openai_chat import CutStream, Fail, Hang, Say
from holdfast.testing.runtime import SeededRuntime

KEY = "canary0123456789abcdef0123456789"
ENDPOINT = "https://res.openai.azure.com"
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(autouse=True)
def _own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests write `.env` files of their own, in folders of their own."""
    monkeypatch.setattr("holdfast.clients.environment.FILE", ".env")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in: no `.env` file but one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def service() -> AsyncIterator[AzureOpenAIStandIn]:
    async with AzureOpenAIStandIn(api_key=KEY, tokens=[token(n) for n in range(1, 10)]) as running:
        yield running


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubAz:
    return StubAz(tmp_path / "bin", monkeypatch)


def token(number: int) -> str:
    """The number-th token that is handed out."""
    return f"canary-token-{number:016d}"


class Credential:
    """Hands out numbered tokens. A test says how long they last, how long it takes, and what goes wrong."""

    def __init__(
        self,
        runtime: SeededRuntime | None = None,
        *,
        lasts: float = 3600,
        refresh_in: int | None = None,
        takes: float = 0,
        same: bool = False,
    ) -> None:
        self._runtime = runtime
        self.lasts = lasts
        self.refresh_in = refresh_in
        self.takes = takes
        self.same = same
        self.fails: Exception | None = None
        self.go_on = threading.Event()  # while it is not set, an answer is held back
        self.go_on.set()
        self.scopes: list[tuple[str, ...]] = []
        self.threads: set[str] = set()

    def _now(self) -> float:
        return time.time() if self._runtime is None else self._runtime.now_us() / 1e6

    def _noted(self, scopes: tuple[str, ...]) -> int:
        """Which question this is."""
        self.scopes.append(scopes)
        self.threads.add(threading.current_thread().name)
        return len(self.scopes)

    def _given(self, number: int) -> AccessToken:
        if self.fails is not None:
            raise self.fails
        return AccessToken(token(1 if self.same else number), int(self._now() + self.lasts))

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        number = self._noted(scopes)
        time.sleep(self.takes)
        assert self.go_on.wait(30)
        return self._given(number)


class NewerCredential(Credential):
    """One with the newer method, which says when a token should be renewed."""

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        found = self.get_token(*scopes)
        refresh_on = None if self.refresh_in is None else int(self._now()) + self.refresh_in
        return AccessTokenInfo(found.token, found.expires_on, refresh_on=refresh_on)


class AsyncCredential(Credential):
    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:  # type: ignore[override]
        number = self._noted(scopes)
        await asyncio.sleep(self.takes)
        return self._given(number)


def client_of(service: AzureOpenAIStandIn | Wire, **settings: Any) -> AzureOpenAIChatClient:
    settings = {"runtime": SeededRuntime(1), **settings}
    if not {"api_key", "credential", "ad_token", "ad_token_provider"} & set(settings):
        settings["api_key"] = KEY
    address = service.endpoint if isinstance(service, AzureOpenAIStandIn) else f"http://127.0.0.1:{service.port}"
    return AzureOpenAIChatClient("chat", **{"endpoint": address, **settings})


def url_of(**settings: Any) -> str:
    client = AzureOpenAIChatClient(**{"deployment_name": "chat", "api_key": KEY, **settings})
    return client._endpoint.url


def revealed(client: AzureOpenAIChatClient) -> dict[str, str]:
    headers = client._endpoint.headers
    found = headers() if callable(headers) else headers
    return {name: secret.reveal() for name, secret in found.items()}


class TestAddresses:
    @pytest.mark.parametrize(
        "endpoint", [ENDPOINT, f"{ENDPOINT}/", f"{ENDPOINT}/openai", f"{ENDPOINT}/openai/", f"{ENDPOINT}/openai/v1/"]
    )
    def test_both_forms(self, endpoint: str) -> None:
        assert url_of(endpoint=endpoint) == f"{ENDPOINT}/openai/v1/chat/completions"
        old = f"{ENDPOINT}/openai/deployments/chat/chat/completions?api-version=2024-10-21"
        assert url_of(endpoint=endpoint, api_version="2024-10-21") == old

    @pytest.mark.parametrize(
        ("version", "query"), [("v1", ""), ("latest", ""), ("", ""), ("preview", "?api-version=preview")]
    )
    def test_versions_of_the_v1_form(self, version: str, query: str) -> None:
        assert url_of(endpoint=ENDPOINT, api_version=version) == f"{ENDPOINT}/openai/v1/chat/completions{query}"

    @pytest.mark.parametrize(
        ("base_url", "version", "url"),
        [
            (f"{ENDPOINT}/openai/v1/", None, f"{ENDPOINT}/openai/v1/chat/completions"),
            (f"{ENDPOINT}/openai/v1", "2024-10-21", f"{ENDPOINT}/openai/v1/chat/completions"),
            ("https://gw/a", None, "https://gw/a/chat/completions"),
            ("https://gw/a", "2024-10-21", "https://gw/a/deployments/chat/chat/completions?api-version=2024-10-21"),
            (
                "https://gw/a/deployments/other",
                "2024-10-21",
                "https://gw/a/deployments/other/chat/completions?api-version=2024-10-21",
            ),
        ],
    )
    def test_a_base_url_is_all_that_comes_before(self, base_url: str, version: str | None, url: str) -> None:
        assert url_of(base_url=base_url, api_version=version) == url

    def test_the_name_of_a_deployment_is_quoted(self) -> None:
        url = url_of(deployment_name="../a b?c", endpoint=ENDPOINT, api_version="2024-10-21")
        assert "/openai/deployments/..%2Fa%20b%3Fc/chat/completions?" in url

    def test_all_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", ENDPOINT)
        monkeypatch.setenv("AZURE_OPENAI_CHAT_DEPLOYMENT_NAME", "from-environment")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
        client = AzureOpenAIChatClient()
        assert client._endpoint.url == f"{ENDPOINT}/openai/v1/chat/completions"
        assert (client.model, client.service, client.address) == ("from-environment", "azure-openai", ENDPOINT)
        assert revealed(client)["api-key"] == KEY
        assert "Authorization" not in revealed(client)
        monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2024-10-21")
        assert "/deployments/from-environment/" in AzureOpenAIChatClient()._endpoint.url
        monkeypatch.setenv("AZURE_OPENAI_BASE_URL", "https://gw/v1")
        assert AzureOpenAIChatClient()._endpoint.url == "https://gw/v1/chat/completions"

    def test_arguments_win_over_the_environment_and_that_over_the_file(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ["ENDPOINT=https://file.example", "CHAT_DEPLOYMENT_NAME=file", "API_KEY=file-key", "API_VERSION=v1"]
        (here / ".env").write_text("\n".join(f"AZURE_OPENAI_{name}" for name in names))
        client = AzureOpenAIChatClient()
        assert (client.model, client.address, revealed(client)["api-key"]) == (
            "file",
            "https://file.example",
            "file-key",
        )
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://environment.example")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "environment-key")
        client = AzureOpenAIChatClient()
        assert (client.model, client.address) == ("file", "https://environment.example")
        assert revealed(client)["api-key"] == "environment-key"
        client = AzureOpenAIChatClient("argument", endpoint=ENDPOINT, api_key=KEY)
        assert (client.model, client.address, revealed(client)["api-key"]) == ("argument", ENDPOINT, KEY)
        # An address of another kind is no weaker for that.
        monkeypatch.setenv("AZURE_OPENAI_BASE_URL", "https://gw/v1")
        assert AzureOpenAIChatClient(endpoint=ENDPOINT).address == ENDPOINT
        monkeypatch.delenv("AZURE_OPENAI_BASE_URL")
        with (here / ".env").open("a") as file:
            file.write("\nAZURE_OPENAI_BASE_URL=https://gw/v1\n")
        assert AzureOpenAIChatClient().address == "https://environment.example"

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"endpoint": None}, "AZURE_OPENAI_ENDPOINT"),
            ({"deployment_name": None}, "AZURE_OPENAI_CHAT_DEPLOYMENT_NAME"),
            ({"base_url": "https://gw/v1"}, "not both"),
            ({"api_version": "2024-1-1"}, "a date like 2024-10-21"),
            ({"api_version": "V1"}, "a date like 2024-10-21"),
            ({"endpoint": "res.openai.azure.com"}, "begin with https://"),
            ({"endpoint": "https://canary:canary@host"}, "user name or password"),
            ({"endpoint": "https://host/?canary=1"}, "a query"),
            ({"endpoint": f"{ENDPOINT}/openai/deployments/x/chat/completions?api-version=1"}, "deployment_name="),
            ({"endpoint": 7}, "spaces"),
            ({"endpoint": "http://res.openai.azure.com"}, "would show the credential"),
            ({"endpoint": "http://192.168.0.1"}, "would show the credential"),
            ({"endpoint": "http://localhost.evil.example"}, "would show the credential"),
            ({"endpoint": None, "base_url": "http://gw/v1"}, "would show the credential"),
            ({"endpoint": None, "base_url": "gw/v1"}, "AZURE_OPENAI_BASE_URL"),
            ({"read_timeout": 0}, "more than 0"),
            ({"instruction_role": "nobody"}, "developer"),
        ],
    )
    def test_what_is_refused(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigurationError, match=words) as caught:
            url_of(**{"endpoint": ENDPOINT, **settings})
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "a.localhost"])
    def test_without_tls_on_this_machine_only(self, host: str) -> None:
        assert url_of(endpoint=f"http://{host}").startswith(f"http://{host}/openai/v1/")


class TestCredentials:
    def client(self, **settings: Any) -> AzureOpenAIChatClient:
        return AzureOpenAIChatClient("chat", endpoint=ENDPOINT, **settings)

    def test_there_must_be_one(self) -> None:
        with pytest.raises(ConfigurationError, match=r"AzureCliCredential.*holdfast\[azure\].*AZURE_OPENAI_API_KEY"):
            self.client()

    def test_and_only_one(self) -> None:
        one_each: dict[str, Any] = {
            "api_key": KEY,
            "ad_token": KEY,
            "ad_token_provider": lambda: KEY,
            "credential": Credential(),
            "default_headers": {"API-Key": KEY},
        }
        names = list(one_each)
        for index, name in enumerate(names):
            for other in names[index + 1 :]:
                with pytest.raises(ConfigurationError, match="Give one credential") as caught:
                    self.client(**{name: one_each[name], other: one_each[other]})
                assert KEY not in str(caught.value)

    @pytest.mark.parametrize("given", ["credential", "ad_token", "default_headers"])
    def test_one_that_is_given_goes_before_the_key_of_the_environment(
        self, given: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "other")
        values: dict[str, Any] = {
            "credential": Credential(),
            "ad_token": KEY,
            "default_headers": {"authorization": f"Bearer {KEY}"},
        }
        assert "api-key" not in revealed(self.client(**{given: values[given]}))

    def test_a_gateways_own_key(self) -> None:
        client = self.client(default_headers={"Ocp-Apim-Subscription-Key": KEY})
        assert "api-key" not in revealed(client)

    @pytest.mark.parametrize(
        "wrong",
        [{"credential": AzureKeyCredential("canary")}, {"credential": "canary"}, {"ad_token_provider": "canary"}],
    )
    def test_what_is_none_is_refused_at_once(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match="ad_token_provider=") as caught:
            self.client(**wrong)
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("name", ["api_key", "ad_token"])
    def test_a_key_that_cannot_be_sent(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="strip") as caught:
            self.client(**{name: f"{KEY}\n"})
        assert "canary" not in str(caught.value)

    def test_no_credential_is_asked_before_there_is_a_request(self) -> None:
        credential = Credential()
        self.client(credential=credential)
        assert credential.scopes == []

    @both
    async def test_a_key(self, service: AzureOpenAIStandIn, stream: bool) -> None:
        assert await said(client_of(service, api_key=KEY), stream=stream) == "You said: Hello (message 1)"
        assert "authorization" not in service.last.headers
        with pytest.raises(AuthenticationError, match="AZURE_OPENAI_API_KEY"):
            await asked(client_of(service, api_key="wrong-key-0123456789"))
        assert len(service.requests) == 2

    async def test_one_token(self, service: AzureOpenAIStandIn) -> None:
        client = client_of(service, ad_token=token(1))
        assert await said(client) == "You said: Hello (message 1)"
        assert service.tokens is not None
        service.tokens.clear()
        with pytest.raises(AuthenticationError, match="role Cognitive Services OpenAI User"):
            await asked(client)
        assert len(service.requests) == 2

    async def test_the_scope(self, service: AzureOpenAIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        credential = Credential()
        await asked(client_of(service, credential=credential))
        monkeypatch.setenv("AZURE_OPENAI_TOKEN_ENDPOINT", "https://environment/.default")
        await asked(client_of(service, credential=credential))
        await asked(client_of(service, credential=credential, token_endpoint="https://argument/.default"))
        assert SCOPE == "https://cognitiveservices.azure.com/.default"
        wanted = [SCOPE, "https://environment/.default", "https://argument/.default"]
        assert credential.scopes == [(scope,) for scope in wanted]


class TestTokens:
    @both
    async def test_one_is_kept_until_shortly_before_its_end(self, service: AzureOpenAIStandIn, stream: bool) -> None:
        runtime = SeededRuntime(1)
        credential = Credential(runtime)
        client = client_of(service, credential=credential, runtime=runtime)
        for seconds, asked_for in ((0, 1), (1000, 1), (2299, 1), (2, 2), (3299, 2), (2, 3)):
            runtime.advance(seconds)
            await asked(client, stream=stream)
            assert len(credential.scopes) == asked_for
        assert service.refused == []

    async def test_or_until_it_says_so_itself(self, service: AzureOpenAIStandIn) -> None:
        runtime = SeededRuntime(1)
        credential = NewerCredential(runtime, lasts=86400, refresh_in=600)
        client = client_of(service, credential=credential, runtime=runtime)
        for seconds, asked_for in ((0, 1), (599, 1), (2, 2), (500, 2)):
            runtime.advance(seconds)
            await asked(client)
            assert len(credential.scopes) == asked_for

    async def test_one_that_was_not_made_for_long_is_used_for_half_of_its_time(
        self, service: AzureOpenAIStandIn
    ) -> None:
        runtime = SeededRuntime(1)
        credential = Credential(runtime, lasts=240)
        client = client_of(service, credential=credential, runtime=runtime)
        for seconds, asked_for in ((0, 1), (119, 1), (2, 2)):
            runtime.advance(seconds)
            await asked(client)
            assert len(credential.scopes) == asked_for

    async def test_one_that_has_ended_already_is_sent_and_not_kept(self, service: AzureOpenAIStandIn) -> None:
        """The clock of this machine may be wrong; the service knows better."""
        runtime = SeededRuntime(1)
        credential = Credential(runtime, lasts=-600)
        client = client_of(service, credential=credential, runtime=runtime)
        await asked(client)
        await asked(client)
        assert len(credential.scopes) == 2
        assert service.refused == []

    @pytest.mark.parametrize("kind", [Credential, NewerCredential, AsyncCredential])
    async def test_many_at_once_ask_for_one(self, service: AzureOpenAIStandIn, kind: type[Credential]) -> None:
        credential = kind(takes=0.2)
        client = client_of(service, credential=credential, runtime=SeededRuntime(1))
        texts = await asyncio.gather(*[said(client, f"n{n}", stream=n % 2 == 0) for n in range(50)])
        assert [text.split()[2] for text in texts] == [f"n{n}" for n in range(50)]
        assert len(credential.scopes) == 1

    async def test_while_one_is_renewed_the_others_use_the_old_one(self, service: AzureOpenAIStandIn) -> None:
        runtime = SeededRuntime(1)
        credential = Credential(runtime)
        client = client_of(service, credential=credential, runtime=runtime)
        await asked(client)
        runtime.advance(3400)  # it still lasts for 200 s
        credential.go_on.clear()
        first = asyncio.create_task(asked(client))
        await asyncio.sleep(0.05)
        await asyncio.gather(*[asked(client) for _ in range(5)])
        assert not first.done()
        credential.go_on.set()
        await first
        assert len(credential.scopes) == 2

    async def test_a_slow_credential_does_not_block_the_loop(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential(takes=1.0)
        client = client_of(service, credential=credential)
        gaps: list[float] = []

        async def watch() -> None:
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0.01)
                now = time.perf_counter()
                gaps.append(now - last)
                last = now

        watching = asyncio.create_task(watch())
        await asked(client)
        watching.cancel()
        assert len(gaps) > 10
        assert max(gaps) < 0.7
        assert threading.current_thread().name not in credential.threads

    async def test_a_busy_pool_of_threads_does_not_hold_it_up(self, service: AzureOpenAIStandIn) -> None:
        release = threading.Event()
        busy = [asyncio.create_task(asyncio.to_thread(release.wait, 20)) for _ in range(64)]
        await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(10):
                await asked(client_of(service, credential=Credential()))
        finally:
            release.set()
            await asyncio.gather(*busy)

    def test_a_credential_that_hangs_does_not_hold_up_the_end(self) -> None:
        code = """
import asyncio, time
from holdfast import AzureOpenAIChatClient, OfflineChatClient
class Hanging:
    def get_token(self, *scopes): time.sleep(60)
async def main():
    agent = AzureOpenAIChatClient("c", endpoint="http://127.0.0.1:9", credential=Hanging()).create_agent()
    try:
        await asyncio.wait_for(agent.run("hi"), 0.3)
    except TimeoutError:
        print("left")
asyncio.run(main())
"""
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
        assert (done.stdout.strip(), done.stderr) == ("left", "")
        assert time.perf_counter() - began < 30

    async def test_whoever_leaves_does_not_take_the_token_from_the_others(self, service: AzureOpenAIStandIn) -> None:
        for kind in (Credential, AsyncCredential):
            credential = kind(takes=0.3)
            client = client_of(service, credential=credential)
            first = asyncio.create_task(asked(client))
            second = asyncio.create_task(said(client))
            await asyncio.sleep(0.05)
            first.cancel()
            assert await second == "You said: Hello (message 1)"
            assert first.cancelled()
            assert len(credential.scopes) == 1

    async def test_when_all_have_left_the_next_one_asks_anew(self, service: AzureOpenAIStandIn) -> None:
        for kind in (Credential, AsyncCredential):
            credential = kind(takes=0.3)
            client = client_of(service, credential=credential)
            leaving = asyncio.create_task(asked(client))
            await asyncio.sleep(0.05)
            leaving.cancel()
            await asyncio.sleep(0)
            assert await said(client) == "You said: Hello (message 1)"

    async def test_when_all_have_left_nobody_goes_on_asking(self, service: AzureOpenAIStandIn) -> None:
        ended = asyncio.Event()

        async def provide() -> str:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
            return token(1)

        leaving = [asyncio.create_task(asked(client_of(service, ad_token_provider=provide))) for _ in range(2)]
        await asyncio.sleep(0.05)
        for task in leaving:
            task.cancel()
        async with asyncio.timeout(5):
            await ended.wait()

    def test_from_several_event_loops(self) -> None:
        with AzureOpenAIStandIn(tokens=[token(1)]) as service:
            credential = Credential()
            client = client_of(service, credential=credential)
            for _ in range(2):
                assert asyncio.run(said(client)) == "You said: Hello (message 1)"
            assert client.create_agent().run_sync("hi").text == "You said: hi (message 1)"
            assert len(credential.scopes) == 1

    def test_at_once_in_several_event_loops(self) -> None:
        """One question for each loop; nobody waits for another loop's."""
        with AzureOpenAIStandIn() as service:
            credential = Credential(takes=0.2)
            client = client_of(service, credential=credential)
            texts: list[str] = []

            async def some() -> None:
                texts.extend(await asyncio.gather(*[said(client) for _ in range(3)]))

            threads = [threading.Thread(target=lambda: asyncio.run(some())) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert texts == ["You said: Hello (message 1)"] * 9
            assert len(credential.scopes) <= 3

    async def test_an_async_credential(self, service: AzureOpenAIStandIn) -> None:
        credential = AsyncCredential()
        client = client_of(service, credential=credential)
        for _ in range(3):
            await asked(client)
        assert len(credential.scopes) == 1
        assert credential.threads == {threading.current_thread().name}

    @pytest.mark.parametrize("kind", ["sync", "async", "returns one", "callable"])
    async def test_a_function_is_asked_before_each_request(self, service: AzureOpenAIStandIn, kind: str) -> None:
        calls: list[str] = []

        def provide() -> str:
            calls.append(threading.current_thread().name)
            return token(1)

        async def provide_async() -> str:
            return provide()

        class Callable:
            async def __call__(self) -> str:
                return provide()

        given: dict[str, Any] = {
            "sync": provide,
            "async": provide_async,
            "returns one": lambda: provide_async(),
            "callable": Callable(),
        }
        client = client_of(service, ad_token_provider=given[kind])
        for _ in range(3):
            await asked(client)
        assert len(calls) == 3
        assert (threading.current_thread().name in calls) == (kind != "sync")
        await asyncio.gather(*[asked(client) for _ in range(5)])
        assert service.refused == []

    async def test_a_function_that_tells_when_its_token_ends(self, service: AzureOpenAIStandIn) -> None:
        calls: list[int] = []

        def provide() -> AccessToken:
            calls.append(1)
            return AccessToken(token(1), int(time.time()) + 3600)

        client = client_of(service, ad_token_provider=provide)
        await asked(client)
        await asked(client)
        assert len(calls) == 1


class TestRefusedTokens:
    @both
    async def test_a_kept_one_is_replaced_once(
        self, service: AzureOpenAIStandIn, stream: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "holdfast")
        credential = Credential()
        client = client_of(service, credential=credential)
        await asked(client, stream=stream)
        assert service.tokens is not None
        service.tokens.discard(token(1))
        assert await said(client, stream=stream) == "You said: Hello (message 1)"
        assert [record.status for record in service.requests] == [200, 401, 200]
        assert len(credential.scopes) == 2
        assert "a kept token was refused" in caplog.text
        assert "canary" not in caplog.text
        await asked(client, stream=stream)
        assert len(credential.scopes) == 2

    async def test_many_at_once_ask_for_one_new_token(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential()
        client = client_of(service, credential=credential)
        await asked(client)
        assert service.tokens is not None
        service.tokens.discard(token(1))
        credential.takes = 0.2
        await asyncio.gather(*[asked(client) for _ in range(20)])
        assert len(credential.scopes) == 2

    async def test_a_second_refusal_is_the_callers(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential()
        client = client_of(service, credential=credential)
        await asked(client)
        service.tokens = set()
        with pytest.raises(AuthenticationError, match="role Cognitive Services OpenAI User") as caught:
            await asked(client)
        assert (caught.value.status, caught.value.service) == (401, "azure-openai")
        assert [record.status for record in service.requests] == [200, 401, 401]

    async def test_one_that_was_made_for_this_request_is_not_replaced(self, service: AzureOpenAIStandIn) -> None:
        service.tokens = set()
        credential = Credential()
        with pytest.raises(AuthenticationError):
            await asked(client_of(service, credential=credential))
        assert (len(service.requests), len(credential.scopes)) == (1, 1)

    async def test_a_credential_that_gives_the_same_again_is_not_believed(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential(same=True)
        client = client_of(service, credential=credential)
        await asked(client)
        service.tokens = set()
        with pytest.raises(AuthenticationError, match="Access token is missing"):
            await asked(client)
        assert [record.status for record in service.requests] == [200, 401]
        assert len(credential.scopes) == 2

    async def test_a_lack_of_rights_is_no_matter_of_the_token(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential()
        client = client_of(service, credential=credential)
        await asked(client)
        service.script(Fail(403, code="AuthenticationTypeDisabled", message="Key based authentication is disabled."))
        with pytest.raises(AuthenticationError, match="Key based"):
            await asked(client)
        assert len(credential.scopes) == 1

    async def test_it_may_be_replaced_between_two_retries(self, service: AzureOpenAIStandIn) -> None:
        """A retry takes the token that is current when it is sent."""
        runtime = SeededRuntime(1)
        credential = Credential(runtime)
        client = client_of(service, credential=credential, runtime=runtime)
        await asked(client)
        service.script(Fail(503), Fail(429, headers={"retry-after": "5"}), Say("Ahoy!"))
        assert await said(client) == "Ahoy!"
        assert len(credential.scopes) == 1


class TestCredentialsThatFail:
    @pytest.mark.parametrize(
        ("failure", "kind"),
        [
            (ClientAuthenticationError("AADSTS700016: no such application"), AuthenticationError),
            (ServiceRequestError("cannot connect"), ServiceUnavailableError),
            (OSError("no route"), ServiceUnavailableError),
            (KeyError("something"), AuthenticationError),
        ],
    )
    @pytest.mark.parametrize("made", [Credential, AsyncCredential])
    async def test_it_is_told_in_our_words(
        self,
        service: AzureOpenAIStandIn,
        made: type[Credential],
        failure: Exception,
        kind: type[ServiceError],
    ) -> None:
        credential = made()
        credential.fails = failure
        client = client_of(service, credential=credential)
        with pytest.raises(kind) as caught:
            await asked(client)
        assert made.__name__ in str(caught.value)
        assert type(failure).__name__ in str(caught.value)
        assert "az login" in str(caught.value)
        assert (caught.value.service, caught.value.status) == ("azure-openai", None)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert service.requests == []
        credential.fails = None
        assert await said(client) == "You said: Hello (message 1)"

    async def test_each_who_waits_gets_an_error_of_his_own(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential(takes=0.1)
        credential.fails = ClientAuthenticationError("no")
        client = client_of(service, credential=credential)
        failures = await asyncio.gather(*[asked(client) for _ in range(3)], return_exceptions=True)
        assert len({id(failure) for failure in failures}) == 3
        assert len(credential.scopes) == 1

    async def test_a_token_that_is_still_good_is_used_on(
        self, service: AzureOpenAIStandIn, caplog: pytest.LogCaptureFixture
    ) -> None:
        runtime = SeededRuntime(1)
        credential = Credential(runtime)
        client = client_of(service, credential=credential, runtime=runtime)
        await asked(client)
        credential.fails = ClientAuthenticationError("the network is down")
        runtime.advance(3400)
        await asked(client)
        await asked(client)
        assert len(credential.scopes) == 2  # it is not asked again at once
        assert "could not be renewed" in caplog.text
        assert "canary" not in caplog.text
        runtime.advance(31)
        await asked(client)
        assert len(credential.scopes) == 3
        runtime.advance(150)
        with pytest.raises(AuthenticationError, match="the network is down"):
            await asked(client)

    @pytest.mark.parametrize("given", ["", "canary token", "canary\r\nX-Evil: 1", None, 7, b"canary"])
    async def test_what_is_no_token(self, service: AzureOpenAIStandIn, given: Any) -> None:
        client = client_of(service, ad_token_provider=lambda: given)
        with pytest.raises(AuthenticationError, match="ad_token_provider gave something that is no token") as caught:
            await asked(client)
        assert "canary" not in str(caught.value)
        assert service.requests == []

    async def test_whatever_a_thread_may_raise(self, service: AzureOpenAIStandIn) -> None:
        for failure in (SystemExit(1), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()):

            def provide(failure: BaseException = failure) -> str:
                raise failure

            with pytest.raises(AuthenticationError, match=type(failure).__name__):
                await asked(client_of(service, ad_token_provider=provide))

    async def test_a_turn_that_failed_so_is_recorded_and_the_next_one_works(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential()
        agent = client_of(service, credential=credential).create_agent(thread_store=MemoryStore())
        thread = agent.get_new_thread()
        credential.fails = ClientAuthenticationError("Please run 'az login' to set up an account")
        with pytest.raises(AuthenticationError, match="az login"):
            await agent.run("one", thread=thread)
        credential.fails = None
        assert (await agent.run("two", thread=thread)).text
        assert [turn.status for turn in await thread.turns()] == ["failed", "completed"]


class TestTheRealCredentials:
    async def test_the_azure_cli(self, service: AzureOpenAIStandIn, az: StubAz) -> None:
        az.gives(token(1))
        client = client_of(service, credential=AzureCliCredential())
        await asyncio.gather(*[asked(client, stream=n % 2 == 0) for n in range(20)])
        assert az.calls == ["account get-access-token --output json --resource https://cognitiveservices.azure.com"]
        assert service.refused == []

    async def test_the_azure_cli_with_asyncio(self, service: AzureOpenAIStandIn, az: StubAz) -> None:
        az.gives(token(1))
        async with identity_aio.AzureCliCredential() as credential:
            client = client_of(service, credential=credential)
            await asyncio.gather(*[asked(client) for _ in range(20)])
        assert len(az.calls) == 1
        assert service.refused == []

    async def test_an_old_azure_cli_tells_local_time(self, service: AzureOpenAIStandIn, az: StubAz) -> None:
        az.gives(token(1), only_local_time=True)
        client = client_of(service, credential=AzureCliCredential())
        await asked(client)
        await asked(client)
        assert len(az.calls) == 1

    async def test_a_slow_azure_cli_does_not_block_the_loop(self, service: AzureOpenAIStandIn, az: StubAz) -> None:
        az.gives(token(1))
        az.takes(1.0)
        asking = asyncio.create_task(asked(client_of(service, credential=AzureCliCredential())))
        longest, last = 0.0, time.perf_counter()
        while not asking.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        await asking
        assert longest < 0.7

    @pytest.mark.parametrize("words", ["ERROR: Please run 'az login' to setup account.", "ERROR: AADSTS50076: MFA"])
    async def test_nobody_is_signed_in(self, service: AzureOpenAIStandIn, az: StubAz, words: str) -> None:
        az.fails(words)
        with pytest.raises(AuthenticationError, match=r"AzureCliCredential gave no token.*az login"):
            await asked(client_of(service, credential=AzureCliCredential()))
        assert service.requests == []

    async def test_there_is_no_azure_cli(self, service: AzureOpenAIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(AuthenticationError, match="Azure CLI not found"):
            await asked(client_of(service, credential=AzureCliCredential()))

    async def test_its_own_function_for_tokens(self, service: AzureOpenAIStandIn, az: StubAz) -> None:
        az.gives(token(1))
        client = client_of(service, ad_token_provider=get_bearer_token_provider(AzureCliCredential(), SCOPE))
        await asked(client)
        await asked(client)
        async_provider = identity_aio.get_bearer_token_provider(identity_aio.AzureCliCredential(), SCOPE)
        await asked(client_of(service, ad_token_provider=async_provider))
        assert len(az.calls) == 2
        assert service.refused == []

    async def test_whatever_the_machine_offers(
        self, service: AzureOpenAIStandIn, az: StubAz, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`settings.client_from_environment` without a key: DefaultAzureCredential, here narrowed to the Azure CLI."""
        az.gives(token(1))
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", service.endpoint)
        monkeypatch.setenv("AZURE_OPENAI_CHAT_DEPLOYMENT_NAME", "chat")
        client = client_from_environment()
        assert isinstance(client, AzureOpenAIChatClient)
        assert await said(client) == "You said: Hello (message 1)"
        assert len(az.calls) == 1


class TestOverTheWire:
    @both
    @pytest.mark.parametrize("version", [None, "2024-10-21", "2024-06-01", "2025-04-01-preview"])
    async def test_each_form_is_accepted_whole(
        self, service: AzureOpenAIStandIn, stream: bool, version: str | None
    ) -> None:
        """The stand-in refuses parameters that a version does not know."""
        service.script(Say("Ahoy, matey! 🦜"))
        client = client_of(service, api_version=version)
        folded = Answer()
        options = ChatOptions(max_tokens=7)
        async for batch in client.ask(request(client, stream=stream, options=options)):
            folded.add(batch)
        assert folded.message(lambda n: f"made-up-{n}").text == "Ahoy, matey! 🦜"
        assert folded.finish_reason == "stop"
        old = version == "2024-06-01"
        assert (folded.usage is None) == (old and stream)
        assert service.last.json["max_tokens" if old else "max_completion_tokens"] == 7
        assert service.last.json["model"] == "chat"
        assert service.refused == []
        assert service.last.query == ({} if version is None else {"api-version": version})

    async def test_what_goes_over_the_wire(self, wire: Wire) -> None:
        wire.answers = [http({"choices": [{"index": 0, "message": {"content": "Ahoy!"}, "finish_reason": "stop"}]})]
        client = client_of(wire, default_headers={"X-Own": "mine"}, api_version="2024-10-21")
        assert await said(client) == "Ahoy!"
        head = wire.heads[0].lower()
        assert head.startswith("post /openai/deployments/chat/chat/completions?api-version=2024-10-21 http/1.1\r\n")
        names = [line.partition(":")[0] for line in head.split("\r\n")[1:] if line]
        assert sorted(names) == [
            "accept", "accept-encoding", "api-key", "content-length", "content-type", "host", "user-agent", "x-own",
        ]  # fmt: skip
        client = client_of(wire, credential=Credential())
        assert await said(client) == "Ahoy!"
        assert f"authorization: bearer {token(1)}" in wire.heads[1].lower()
        assert "api-key" not in wire.heads[1].lower()

    async def test_another_deployment_for_one_run(self, service: AzureOpenAIStandIn) -> None:
        agent = client_of(service).create_agent(model="other")
        await agent.run("hi")
        assert service.last.json["model"] == "other"
        agent = client_of(service, api_version="2024-10-21").create_agent(model="other")
        with pytest.raises(InvalidInputError, match=r"'chat'.*'other'.*api_version"):
            await agent.run("hi")
        address = f"{service.endpoint}/openai/deployments/chat"
        agent = client_of(service, endpoint=None, base_url=address).create_agent(model="other")
        with pytest.raises(InvalidInputError, match=r"'chat'.*'other'"):
            await agent.run("hi")
        agent = client_of(service, api_version="2024-10-21").create_agent(model="chat")
        await agent.run("hi")
        assert len(service.requests) == 2

    async def test_the_bytes_are_those_of_the_other_client(self, service: AzureOpenAIStandIn) -> None:
        ours, other = client_of(service), OpenAIChatClient("chat", api_key=KEY)
        assert request(ours, stream=True).body == request(other, stream=True).body
        assert ours.codec.name == other.codec.name

    async def test_leaving_early_closes_the_connection(self, service: AzureOpenAIStandIn) -> None:
        service.script(Hang(after=3))
        client = client_of(service, credential=Credential())
        answers = client.ask(request(client, stream=True))
        async for _ in answers:
            break
        await answers.aclose()
        assert client._transport is not None
        assert not any(line.replies for line in client._transport._lines.values())  # now, and not when it is collected
        async with asyncio.timeout(5):
            await service.wait_until_idle()
        assert service.last.disconnected

    async def test_a_wrong_deployment(self) -> None:
        async with AzureOpenAIStandIn(deployments=["chat"]) as service:
            for version, words in (
                (None, "deployment's name and"),
                ("2024-10-21", "deployment's name, api_version and"),
            ):
                client = AzureOpenAIChatClient("other", endpoint=service.endpoint, api_key=KEY, api_version=version)
                with pytest.raises(BadRequestError, match=words) as caught:
                    await asked(client)
                assert caught.value.service_code == "DeploymentNotFound"
                assert "does not exist" in str(caught.value)

    async def test_a_rate_limit(self, service: AzureOpenAIStandIn) -> None:
        service.script(Fail(429, headers={"retry-after": "7"}), Say("Ahoy!"))
        runtime = SeededRuntime(1)
        assert await said(client_of(service, runtime=runtime)) == "Ahoy!"
        assert runtime.monotonic() == 7
        service.script(Fail(429, headers={"retry-after": "3600"}))
        with pytest.raises(RateLimitError, match="call rate limit") as caught:
            await asked(client_of(service))
        assert caught.value.retry_after == 3600

    @pytest.mark.parametrize(
        ("base", "words"), [(False, "Check the endpoint"), (True, r"Check base_url")], ids=["endpoint", "base_url"]
    )
    async def test_errors_speak_of_what_was_given(self, wire: Wire, base: bool, words: str) -> None:
        place = f"http://127.0.0.1:{wire.port}"
        address: dict[str, Any] = {"endpoint": None, "base_url": f"{place}/v1"} if base else {"endpoint": place}
        client = AzureOpenAIChatClient("chat", api_key=KEY, max_retries=0, **address)
        wire.answers = [http(b"<html>", kind="text/html")]
        with pytest.raises(ServiceProtocolError, match=words):
            await asked(client)
        wire.answers = [b"SSH-2.0-OpenSSH\r\n"]
        with pytest.raises(ServiceProtocolError, match=words):
            await asked(client)


class TestTheContentFilter:
    @pytest.mark.parametrize("filter", ["default", "asynchronous", "off"])
    @both
    async def test_annotations_are_passed_over(self, filter: Any, stream: bool) -> None:
        async with AzureOpenAIStandIn(filter=filter) as service:
            service.script(Say("one two three four"))
            updates = await asked(client_of(service), stream=stream)
            assert "".join(update.text for update in updates) == "one two three four"
            folded = Answer()
            folded.add(updates)
            assert (folded.finish_reason, folded.model) == ("stop", "gpt-4o-mini-2024-07-18")
            assert folded.usage is not None

    @pytest.mark.parametrize("filter", ["default", "asynchronous"])
    @both
    async def test_an_answer_that_was_cut_off_is_kept(self, filter: Any, stream: bool) -> None:
        async with AzureOpenAIStandIn(filter=filter) as service:
            service.script(Say("Once upon a", finish_reason="content_filter"))
            agent = client_of(service).create_agent(thread_store=MemoryStore())
            thread = agent.get_new_thread()
            if stream:
                texts = [update.text async for update in agent.run_stream("Tell me", thread=thread)]
                assert "".join(texts) == "Once upon a"
            else:
                assert (await agent.run("Tell me", thread=thread)).text == "Once upon a"
            [turn] = await thread.turns()
            assert (turn.status, turn.finish_reason) == ("completed", "content_filter")
            assert await thread.turns()
            service.script(Say("Ahoy!"))
            assert (await agent.run("Go on", thread=thread)).text == "Ahoy!"
            assert [message["content"] for message in service.messages()] == ["Tell me", "Once upon a", "Go on"]

    @both
    @pytest.mark.parametrize("version", [None, "2024-10-21"])
    async def test_a_question_that_is_blocked(
        self, service: AzureOpenAIStandIn, stream: bool, version: str | None
    ) -> None:
        service.script(BlockPrompt("violence"), BlockPrompt("jailbreak"))
        client = client_of(service, api_version=version)
        for category in ("violence", "jailbreak"):
            with pytest.raises(ContentFilteredError, match=f"filtered: {category}") as caught:
                await asked(client, stream=stream)
            assert (caught.value.status, caught.value.service_code) == (400, "content_filter")
        assert len(service.requests) == 2

    async def test_the_other_form_of_that_error(self, wire: Wire) -> None:
        found = {"jailbreak": {"filtered": True, "detected": True}}
        inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_results": found}
        error = {"code": "content_filter", "message": "Filtered.", "inner_error": inner}
        wire.answers = [http({"error": error}, status=400)]
        with pytest.raises(ContentFilteredError, match="filtered: jailbreak"):
            await asked(client_of(wire))

    async def test_a_cut_amid_the_annotations(self, service: AzureOpenAIStandIn) -> None:
        service.script(CutStream(after=1, answer=Say("a b c")), Say("Ahoy!"))
        assert await said(client_of(service), stream=True) == "Ahoy!"  # nothing had been handed on
        service.script(CutStream(after=3, answer=Say("a b c")))
        texts: list[str] = []
        with pytest.raises(ServiceUnavailableError, match="cut off"):
            await until_it_fails(client_of(service), texts)
        assert "".join(texts) == "a "


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "key": lambda: {"api_key": KEY},
    "token": lambda: {"ad_token": token(1)},
    "function": lambda: {"ad_token_provider": lambda: token(1)},
    "credential": lambda: {"credential": Credential(same=True)},
}


class TestSecrets:
    @both
    @pytest.mark.parametrize("case", CASES)
    async def test_no_error_shows_them(
        self, wire: Wire, case: str, stream: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        settings = CASES[case]()
        client = client_of(wire, max_retries=1, default_headers={"X-Token": "canary-header-0123456789"}, **settings)
        echo = f"bad {KEY} {token(1)} {token(2)} canary-header-0123456789"
        for played in (
            http({"error": {"code": "401", "message": echo}}, status=401, headers={"apim-request-id": echo}),
            http({"statusCode": 401, "message": echo}, status=401),
            http({"error": {"code": echo, "message": echo}}, status=400),
            http(echo.encode(), status=500),
            http({"error": {"message": echo}}),
            http(echo.encode(), kind=f"text/{token(1)}"),
            http(status=302, headers={"Location": f"https://h/{token(1)}"}),
        ):
            wire.answers = [played]
            with pytest.raises(ServiceError) as caught:
                await asked(client, stream=stream)
            told = "".join(traceback.format_exception(caught.value))
            error: BaseException | None = caught.value
            while error is not None:
                told += f"{error!r} {error!s} {vars(error)}"
                error = error.__cause__ or error.__context__
            for secret in (KEY if case == "key" else token(1), "canary-header-0123456789"):
                assert secret not in told
        assert "canary" not in repr(client) + repr(vars(client)) + repr(client._endpoint)
        for secret in (KEY, token(1), token(2)):
            assert secret not in caplog.text

    async def test_nor_the_one_that_was_replaced(self, wire: Wire) -> None:
        client = client_of(wire, credential=Credential())
        wire.answers = [http({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]})]
        await asked(client)
        echo = f"no: {token(1)}, {token(2)}"
        wire.answers = [http({"statusCode": 401, "message": echo}, status=401)]
        with pytest.raises(AuthenticationError) as caught:
            await asked(client)
        assert "canary" not in str(caught.value)

    async def test_nor_what_a_credential_says(self, service: AzureOpenAIStandIn) -> None:
        credential = Credential()
        signed = "eyJhbGciOiJub25lIn0.eyJjYW5hcnkiOiJjYW5hcnkifQ.Y2FuYXJ5"
        for words in (f"token {signed} refused", f"Authorization: Bearer {signed}", f"x\n{signed}\x1b[31m" * 100):
            credential.fails = ClientAuthenticationError(words)
            with pytest.raises(AuthenticationError) as caught:
                await asked(client_of(service, credential=credential))
            assert "eyJ" not in str(caught.value)
            assert len(str(caught.value)) < 1000
            assert "\n" not in str(caught.value)
            assert "\x1b" not in str(caught.value)

    async def test_nor_does_the_journal_of_the_stand_in(self, service: AzureOpenAIStandIn) -> None:
        await asked(client_of(service))
        await asked(client_of(service, credential=Credential()))
        assert KEY not in repr(service.requests)
        assert token(1) not in repr(service.requests)


async def test_nothing_is_left_behind(service: AzureOpenAIStandIn) -> None:
    """filterwarnings = error: a task, a thread or a socket that was forgotten would fail this test."""
    client = client_of(service, credential=AsyncCredential())
    await asked(client)
    await client.aclose()
    assert client._tokens is not None
    for open_one in client._tokens._requests.values():
        assert open_one.task.done()
    del client
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-credential"]


def test_it_is_a_chat_client() -> None:
    client: ChatClient = AzureOpenAIChatClient("chat", endpoint=ENDPOINT, api_key=KEY)
    assert (client.service, client.keeps_history) == ("azure-openai", False)
    assert repr(client) == f"AzureOpenAIChatClient('chat', at {ENDPOINT})"


def test_making_one_imports_no_http_library_and_no_azure() -> None:
    code = (
        "import sys; from holdfast import AzureOpenAIChatClient; "
        "AzureOpenAIChatClient('c', endpoint='https://h', api_key='k');"
        "print({'aiohttp', 'azure', 'msal', 'pydantic', 'http.client', 'urllib.request'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
