"""The transport: sessions for loops, threads and forks; bodies that are lent; proxies; and quiet exits."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from raw_server import GOOD, Hangup, Wire, asked, delta, http, request, said, sse, until_it_fails

from holdfast.clients.endpoints import Endpoint, Secret
from holdfast.clients.openai_chat import OpenAIChatClient
from holdfast.clients.transport import Transport
from holdfast.conversation.errors import ServiceError, ServiceUnavailableError
from holdfast.testing.openai_chat import ChatCompletionsStandIn, Hang, Say
from holdfast.testing.runtime import SeededRuntime

KEY = "sk-canary-0123456789abcdef"


def client_for(base_url: str, **settings: Any) -> OpenAIChatClient:
    return OpenAIChatClient("m", base_url=base_url, **{"api_key": KEY, "runtime": SeededRuntime(), **settings})


@pytest.fixture
def service() -> Iterator[ChatCompletionsStandIn]:
    """In a thread of its own, for tests that have several loops."""
    with ChatCompletionsStandIn() as running:
        yield running


class TestLoops:
    def test_two_runs_one_after_the_other(self, service: ChatCompletionsStandIn) -> None:
        client = client_for(service.base_url)
        for _ in range(3):
            assert asyncio.run(said(client)).startswith("You said")
            assert client._transport is not None
            assert not client._transport._lines

    def test_a_loop_that_was_only_closed(
        self, service: ChatCompletionsStandIn, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = client_for(service.base_url, default_headers={"Connection-Hint": "x"})
        loop = asyncio.new_event_loop()
        loop.run_until_complete(said(client))
        for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
            transport.abort()  # else asyncio itself would complain of them
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        assert asyncio.run(said(client)).startswith("You said")
        assert client._transport is not None
        assert not client._transport._lines
        del client, loop
        gc.collect()
        assert not caplog.records

    def test_several_threads_at_once(self, service: ChatCompletionsStandIn) -> None:
        client = client_for(service.base_url)
        found: list[str] = []

        async def many() -> None:
            found.extend(await asyncio.gather(*[said(client, stream=n % 2 == 0) for n in range(20)]))

        threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["You said: Hello (message 1)"] * 100

    async def test_a_client_that_is_forgotten_closes_its_connections(self, wire: Wire) -> None:
        wire.answers = [GOOD]
        client = client_for(wire.base_url)
        await said(client)
        del client
        gc.collect()
        async with asyncio.timeout(5):
            await wire.closed.wait()

    async def test_also_as_part_of_a_circle(self, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
        wire.answers = [GOOD]
        client: Any = client_for(wire.base_url)
        await said(client)
        client.me = client
        del client
        gc.collect()
        async with asyncio.timeout(5):
            await wire.closed.wait()
        assert not caplog.records

    async def test_one_that_is_forgotten_while_it_reads_goes_on(self, wire: Wire) -> None:
        wire.answers = [sse(delta("a"), delta("b", "stop"), "[DONE]")]

        def answers() -> Any:
            client = client_for(wire.base_url)
            return client.ask(request(client, stream=True))

        texts = []
        async for batch in answers():
            gc.collect()
            texts += [update.text for update in batch]
        assert "".join(texts) == "ab"

    def test_aclose_from_another_loop(self, service: ChatCompletionsStandIn) -> None:
        client = client_for(service.base_url)
        used, closed = threading.Event(), threading.Event()

        async def use() -> None:
            await said(client)
            used.set()
            await asyncio.to_thread(closed.wait, 5)
            await said(client)

        thread = threading.Thread(target=lambda: asyncio.run(use()))
        thread.start()
        used.wait(5)
        asyncio.run(client.aclose())
        closed.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestForks:
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_child_makes_connections_of_its_own(self, service: ChatCompletionsStandIn) -> None:
        """In a process of its own: a fork of pytest would run pytest's exits."""
        code = f"""
            import asyncio, os, sys
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            from raw_server import said
            from holdfast.clients.openai_chat import OpenAIChatClient
            client = OpenAIChatClient("m", base_url={service.base_url!r}, api_key="k")

            async def main():
                first = await said(client)
                child = os.fork()
                if child == 0:
                    return None
                assert os.waitpid(child, 0)[1] == 0
                assert await said(client) == first   # over the connection that was open before
                assert len(client._transport._lines) == 1
                return first

            loop = asyncio.new_event_loop()
            first = loop.run_until_complete(main())
            if first is None:
                assert not client._transport._lines
                assert asyncio.run(said(client)).startswith("You said")
                sys.stdout.flush()
                os._exit(0)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            print("fine")
        """
        assert quiet(code) == "fine"
        assert len(service.requests) == 3


class TestBodies:
    @pytest.mark.parametrize("size", [100, 70_000, 5_000_000])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_body_is_lent_and_given_back(
        self, service: ChatCompletionsStandIn, size: int, stream: bool
    ) -> None:
        client = client_for(service.base_url)
        asking = request(client, "x" * size, stream=stream)
        assert isinstance(asking.body, bytearray)
        before = bytes(asking.body)
        resized = False
        async for _ in client.ask(asking):
            if not resized:
                asking.body.extend(b"more")  # BufferError if anybody held a view
                del asking.body[10:]
                resized = True
        assert service.last.body == before

    async def test_a_slow_reader_gets_it_all(self, wire: Wire) -> None:
        async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            length = int(wire.heads[-1].lower().split("content-length: ")[1].split("\r\n")[0])
            wire.bodies.append(await reader.readexactly(length))
            writer.write(GOOD)
            await writer.drain()

        wire.answers = [slowly]
        client = client_for(wire.base_url)
        asking = request(client, "x" * 20_000_000)
        before = bytes(asking.body)
        async for _ in client.ask(asking):
            asking.body.clear()  # type: ignore[union-attr]
        assert wire.bodies == [before]

    @pytest.mark.parametrize("status", [200, 413])
    async def test_an_answer_before_the_body_was_read(self, wire: Wire, status: int) -> None:
        async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GOOD if status == 200 else http({"error": {"message": "too much"}}, status=413))
            await asyncio.sleep(30)

        wire.answers = [hasty]
        client = client_for(wire.base_url, read_timeout=0.5)
        asking = request(client, "x" * 20_000_000)
        assert isinstance(asking.body, bytearray)
        with pytest.raises(ServiceError, match="without having read" if status == 200 else "too much"):
            async for _ in client.ask(asking):
                pass
        await asyncio.sleep(0.05)
        asking.body.clear()

    async def test_a_caller_who_leaves_while_it_is_sent(self, wire: Wire) -> None:
        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(30)

        wire.answers = [never]
        client = client_for(wire.base_url)
        asking = request(client, "x" * 20_000_000)
        assert isinstance(asking.body, bytearray)

        async def ask() -> None:
            async for _ in client.ask(asking):
                pass

        task = asyncio.create_task(ask())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)
        asking.body.clear()

    async def test_the_same_body_is_sent_again(self, wire: Wire) -> None:
        wire.answers = [http(status=500), Hangup(b""), GOOD]
        client = client_for(wire.base_url)
        assert await said(client, "x" * 300_000) == "Ahoy!"
        assert len(wire.bodies) == 3
        assert len(set(wire.bodies)) == 1


class TestConnections:
    async def test_headers_may_be_made_anew_for_each_request(self, wire: Wire) -> None:
        wire.answers = [GOOD]
        tokens = iter(["one", "two"])
        endpoint = Endpoint("any", f"{wire.base_url}/chat/completions", lambda: {"X-Token": Secret(next(tokens))})
        transport = Transport(endpoint, connect_timeout=5, read_timeout=5)
        for token in ("one", "two"):
            reply = await transport.post(b"{}")
            assert await reply.read()
            reply.close()
            assert f"X-Token: {token}\r\n" in wire.heads[-1]
        await transport.aclose()

    async def test_a_stream_may_begin_byte_by_byte(self, wire: Wire) -> None:
        handed_on = asyncio.Event()

        async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head, _, body = sse(delta("a"), delta("b", "stop"), "[DONE]").partition(b"\r\n\r\n")
            first, _, rest = body.partition(b"\n\n")
            writer.write(head + b"\r\n\r\n")
            for byte in first + b"\n\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.001)
            await handed_on.wait()
            writer.write(rest)
            await writer.drain()

        wire.answers = [slowly]
        client = client_for(wire.base_url)
        texts: list[str] = []
        async for batch in client.ask(request(client, stream=True)):
            texts += [update.text for update in batch]
            handed_on.set()
        assert "".join(texts) == "ab"

    async def test_a_connection_that_was_closed_meanwhile_is_replaced_at_once(self, wire: Wire) -> None:
        async def close_on_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            length = int(wire.heads[-1].lower().split("content-length: ")[1].split("\r\n")[0])
            await reader.readexactly(length)
            writer.write(GOOD)
            await reader.readuntil(b"\r\n\r\n")  # the next request comes, and is not answered

        wire.answers = [close_on_second, GOOD]
        client = client_for(wire.base_url, max_retries=0)
        assert await said(client) == "Ahoy!"
        assert await said(client) == "Ahoy!"
        assert wire.connections == 2

    async def test_a_new_connection_is_not(self, wire: Wire) -> None:
        wire.answers = [Hangup(b""), GOOD]
        with pytest.raises(ServiceUnavailableError, match="closed the connection before it answered"):
            await said(client_for(wire.base_url, max_retries=0))

    @pytest.mark.parametrize(
        ("base_url", "words"),
        [
            ("http://127.0.0.1:1/v1", ["Cannot connect to http://127.0.0.1:1", "proxy", "base_url"]),
            ("http://nowhere.invalid/v1", ["nowhere.invalid is not known", "base_url"]),
        ],
    )
    async def test_nobody_there(self, base_url: str, words: list[str]) -> None:
        runtime = SeededRuntime()
        with pytest.raises(ServiceUnavailableError) as caught:
            await asked(client_for(base_url, runtime=runtime))
        for word in words:
            assert word in str(caught.value)
        assert caught.value.status is None
        assert "canary" not in str(caught.value)
        assert runtime.monotonic() > 0.5  # it was tried again

    @pytest.mark.parametrize("host", ["127.1", "a..b", "a" * 70 + ".example"])
    async def test_what_is_no_host(self, host: str) -> None:
        with pytest.raises(ServiceUnavailableError, match="Check base_url"):
            await asked(client_for(f"http://{host}/v1"))

    async def test_tls_where_there_is_none(self) -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ServiceUnavailableError, match=r"No safe connection.*SSL_CERT_FILE"):
                await asked(client_for(f"https://127.0.0.1:{port}/v1"))

    async def test_no_connection_in_time(self) -> None:
        """A server that takes nobody any more: its queue of connections is full."""
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            others = [socket.socket() for _ in range(8)]
            for other in others:
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            await asyncio.sleep(0.05)
            with pytest.raises(ServiceUnavailableError, match=r"within 0\.2 s"):
                await asked(
                    client_for(f"http://127.0.0.1:{full.getsockname()[1]}/v1", connect_timeout=0.2, max_retries=0)
                )
            for other in others:
                other.close()

    async def test_more_than_a_hundred_at_once(self) -> None:
        async with ChatCompletionsStandIn() as service:
            service.script(*[Hang(0.5)] * 120)
            client = client_for(service.base_url)
            began = time.monotonic()
            await asyncio.gather(*[said(client) for _ in range(120)])
            assert time.monotonic() - began < 5
            assert len(service.requests) == 120

    async def test_what_came_before_a_cut_is_handed_on_even_to_a_slow_reader(self, wire: Wire) -> None:
        first = sse(delta("a")).replace(b"Content-Length: ", b"Content-Length: 9")
        rest = sse(delta("b")).partition(b"\r\n\r\n")[2]
        gone = asyncio.Event()

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(first)
            await asyncio.sleep(0.05)
            writer.write(rest)
            await writer.drain()
            gone.set()

        wire.answers = [cut]
        client = client_for(wire.base_url)
        texts: list[str] = []
        with pytest.raises(ServiceUnavailableError, match="cut off"):
            await until_it_fails(client, texts, gone)
        assert "".join(texts) == "ab"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
class TestTLS:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        new = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        )
        made = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
        subprocess.run([*new.split(), *made], check=True, capture_output=True)
        return tmp_path

    @pytest.fixture
    async def secure(self, certificate: Path) -> AsyncIterator[Wire]:
        wire = Wire()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        await wire.start(context)
        wire.base_url = f"https://localhost:{wire.port}/v1"
        wire.answers = [GOOD]
        yield wire
        await wire.stop()

    async def test_a_certificate_that_nobody_vouches_for(self, secure: Wire) -> None:
        with pytest.raises(ServiceUnavailableError, match=r"No safe connection.*self.signed.*SSL_CERT_FILE"):
            await asked(client_for(secure.base_url))

    async def test_one_that_the_system_trusts(self, secure: Wire, certificate: Path) -> None:
        """In a process of its own: certificates are read once, when aiohttp is imported."""
        code = f"""
            import asyncio
            from raw_server import said, request
            from holdfast.clients.openai_chat import OpenAIChatClient
            client = OpenAIChatClient("m", base_url={secure.base_url!r}, api_key="k")

            async def main():
                for size in (10, 5_000_000, 10):
                    asking = request(client, "x" * size)
                    async for batch in client.ask(asking):
                        asking.body.clear()
                await asyncio.gather(*[said(client) for _ in range(3)])

            asyncio.run(main())
            print("fine")
        """
        script = asyncio.to_thread(quiet, code, env={**os.environ, "SSL_CERT_FILE": str(certificate / "cert.pem")})
        assert await script == "fine"
        assert secure.connections == 3
        assert [len(body) for body in secure.bodies][:3] == [65, 5_000_055, 65]


class Proxy:
    """Forwards requests with an absolute address, and refuses tunnels."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            if head.startswith(b"CONNECT"):
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
            inner_writer.write(head + await reader.readexactly(length))
            inner_writer.write_eof()
            writer.write(await inner_reader.read(65536))
            inner_writer.close()
            await writer.drain()
        finally:
            writer.close()


class TestProxies:
    @pytest.fixture
    async def proxy(self, wire: Wire) -> Any:
        wire.answers = [GOOD]
        proxy = Proxy(wire.port)
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield proxy
        server.close()
        await server.wait_closed()

    async def test_of_the_environment(self, proxy: Proxy, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:canary-password@127.0.0.1:{self.port}")
        monkeypatch.setenv("NETRC", os.devnull)
        client = client_for("http://service.invalid/v1")
        assert await said(client) == "Ahoy!"
        assert proxy.heads[0].startswith("POST http://service.invalid/v1/chat/completions HTTP/1.1\r\n")
        credential = base64.b64encode(b"user:canary-password").decode()
        assert f"proxy-authorization: basic {credential.lower()}" in proxy.heads[0].lower()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await said(client_for(wire.base_url)) == "Ahoy!"
        assert len(proxy.heads) == 1

    async def test_one_that_refuses(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary-password@127.0.0.1:{self.port}")
        with pytest.raises(ServiceUnavailableError, match=r"proxy .*status 407.*HTTPS_PROXY") as caught:
            await asked(client_for("https://service.invalid/v1"))
        assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"

    async def test_one_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://user:canary-password@127.0.0.1:1")
        with pytest.raises(ServiceUnavailableError, match=r"proxy .*cannot be reached.*HTTP_PROXY") as caught:
            await asked(client_for("http://service.invalid/v1"))
        assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


def quiet(code: str, env: Mapping[str, str] | None = None) -> str:
    """What a script prints; it must not complain about anything."""
    prelude = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )
    assert ran.returncode == 0, ran.stderr
    # In debug mode asyncio tells of the import of aiohttp, which takes its time.
    assert [line for line in ran.stderr.splitlines() if not line.startswith("Executing <")] == []
    return ran.stdout.strip()


class TestQuietExits:
    def script(self, service: ChatCompletionsStandIn, rest: str) -> str:
        return (
            "import asyncio, threading, time\n"
            "from raw_server import said, asked, request\n"
            "from holdfast.clients.openai_chat import OpenAIChatClient\n"
            f"client = OpenAIChatClient('m', base_url={service.base_url!r}, api_key='k')\n" + textwrap.dedent(rest)
        )

    def test_of_a_script_that_closes_nothing(self, service: ChatCompletionsStandIn) -> None:
        rest = """
            async def main():
                await said(client)
                await asyncio.gather(*[said(client, stream=True) for _ in range(3)])
            asyncio.run(main())
            print("fine")
        """
        assert quiet(self.script(service, rest)) == "fine"

    def test_of_one_that_leaves_a_stream_in_its_middle(self, service: ChatCompletionsStandIn) -> None:
        service.script(Say("a b c d", delay=30))
        rest = """
            async def main():
                async for batch in client.ask(request(client, stream=True)):
                    break
            asyncio.run(main())
            print("fine")
        """
        assert quiet(self.script(service, rest)) == "fine"

    def test_of_one_that_is_cancelled(self, service: ChatCompletionsStandIn) -> None:
        service.script(Hang())
        rest = """
            async def main():
                await asyncio.wait_for(asked(client), 0.3)
            try:
                asyncio.run(main())
            except TimeoutError:
                print("fine")
        """
        assert quiet(self.script(service, rest)) == "fine"

    def test_of_one_whose_error_ends_it(self, service: ChatCompletionsStandIn) -> None:
        rest = """
            async def main():
                answers = client.ask(request(client, stream=True))
                await anext(answers)
                raise SystemExit(0)
            asyncio.run(main())
        """
        assert quiet(self.script(service, rest)) == ""

    def test_of_one_with_a_loop_in_a_daemon_thread(self, service: ChatCompletionsStandIn) -> None:
        rest = """
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True).start()
            asyncio.run_coroutine_threadsafe(said(client), loop).result(10)
            print("fine")
        """
        script = self.script(service, rest)
        # Without -W error: asyncio itself warns of the open loop and its connections.
        ran = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n" + script],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.stdout, ran.stderr) == ("fine\n", "")

    def test_of_one_whose_loop_is_neither_running_nor_closed(self, service: ChatCompletionsStandIn) -> None:
        rest = """
            loop = asyncio.new_event_loop()
            loop.run_until_complete(said(client))
            print("fine")
        """
        script = self.script(service, rest)
        ran = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n" + script],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.stdout, ran.stderr) == ("fine\n", "")
