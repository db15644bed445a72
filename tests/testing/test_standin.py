"""What all stand-ins share: the server's life, the script, the journal and the faults, seen from a bare socket."""

import asyncio
import contextlib
import http.client
import json
import re
import socket

import aiohttp
import pytest

from holdfast.testing.openai_chat import (
    Answer,
    BrokenJSON,
    ChatCompletionsStandIn,
    CutStream,
    Fail,
    FailInStream,
    Hang,
    Say,
)

PATH = "/v1/chat/completions"
KEY = "sk-test-0123456789abcdef"


def asking(text="hi", **parameters):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **parameters}


async def post(service, body, **headers):
    async with aiohttp.ClientSession() as session:
        response = await session.post(f"{service.base_url}/chat/completions", json=body, headers=headers)
        return response.status, await response.read(), response.headers


async def raw(service, body, *, linger=0.0):
    """All bytes that the service sends on a connection of its own until it ends; and whether it was reset."""
    sent = json.dumps(body).encode()
    host, port = "127.0.0.1", int(service.base_url.rsplit(":", 1)[1].split("/")[0])
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + f"Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
    got, was_reset = b"", False
    await asyncio.sleep(linger)
    try:
        while piece := await reader.read(65536):
            got += piece
    except ConnectionResetError:
        was_reset = True
    writer.close()
    return got, was_reset


def frames(answer):
    """The data fields of a chunked SSE answer."""
    return re.findall(rb"data: (.*)", answer)


def ask_blocking(base_url, body):
    """One request of a script without a loop."""
    with contextlib.closing(http.client.HTTPConnection(base_url.split("/")[2])) as connection:
        connection.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
        return json.load(connection.getresponse())


# The server's life.


async def test_it_serves_in_the_running_loop():
    async with ChatCompletionsStandIn() as service:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", service.base_url)
        assert (await post(service, asking()))[0] == 200


def test_it_serves_in_a_thread_of_its_own():
    with ChatCompletionsStandIn() as service:
        service.script("from the thread")
        answer = ask_blocking(service.base_url, asking())
        service.block_for_requests(1)
        service.block_until_idle()
        assert answer["choices"][0]["message"]["content"] == "from the thread"
        assert service.last.ending == "complete"
        with pytest.raises(TimeoutError, match=r"Waited 0\.01 s for 2 requests; 1 came"):
            service.block_for_requests(2, timeout=0.01)
    with pytest.raises(OSError, match="refused"):
        ask_blocking(service.base_url, asking())
    assert service.messages(-1) == asking()["messages"]


def test_a_thread_tells_why_it_could_not_start():
    with ChatCompletionsStandIn() as service:
        port = int(service.base_url.split(":")[2].split("/")[0])
        with pytest.raises(OSError, match="address already in use"), ChatCompletionsStandIn(port=port):
            raise AssertionError("it must not get here")


async def test_it_comes_back_at_the_same_address():
    async with ChatCompletionsStandIn() as service:
        address = service.base_url
        await service.stop()
        await service.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(service, asking())
        await service.start()
        assert service.base_url == address
        assert (await post(service, asking()))[0] == 200
        with pytest.raises(RuntimeError, match="running already"):
            await service.start()


def test_it_has_no_address_before_it_runs():
    with pytest.raises(RuntimeError, match="async with"):
        _ = ChatCompletionsStandIn().base_url


@pytest.mark.parametrize("answer", [Hang(), Hang(after=0), Hang(after=2)])
async def test_its_end_cuts_what_hangs(answer):
    async with asyncio.timeout(5):
        async with ChatCompletionsStandIn() as service:
            service.script(answer)
            asked = asyncio.create_task(raw(service, asking(stream=True)))
            await service.wait_for_requests(1)
        await asked
    assert service.last.ending == "cut"


async def test_long_bodies_and_many_clients_at_once():
    async with ChatCompletionsStandIn() as service:
        assert (await raw(service, asking("x" * 3_000_000)))[0].startswith(b"HTTP/1.1 200")
        assert len(service.last.body) > 3_000_000
        answers = await asyncio.gather(*(post(service, asking(str(i))) for i in range(50)))
        assert len({json.loads(body)["id"] for _, body, _ in answers}) == 50
        assert all(f"You said: {i} " in body.decode() for i, (_, body, _) in enumerate(answers))


# The script.


async def test_answers_are_taken_in_order_and_then_the_default_replies():
    async with ChatCompletionsStandIn(reply=lambda request: f"default for {request.text}") as service:
        service.script("one", Say("two"), lambda request: Say(request.text.upper()), lambda request: "four")
        assert service.unused == 4
        said = []
        for word in "abcde":
            _, body, _ = await post(service, asking(word))
            said.append(json.loads(body)["choices"][0]["message"]["content"])
        assert said == ["one", "two", "C", "four", "default for e"]
        assert service.unused == 0


async def test_a_refused_request_takes_no_answer():
    async with ChatCompletionsStandIn() as service:
        service.script("one")
        assert (await post(service, {"model": "m"}))[0] == 400
        assert service.unused == 1
        assert b"one" in (await post(service, asking()))[1]


async def test_a_script_that_raises_does_not_pass_unseen():
    def broken(request):
        raise ZeroDivisionError("in the test's own function")

    async def a_test():
        async with ChatCompletionsStandIn() as service:
            service.script(broken)
            status, body, headers = await post(service, asking())
            assert (status, headers["x-should-retry"]) == (500, "false")
            assert "ZeroDivisionError" in json.loads(body)["error"]["message"]

    async def a_test_that_fails():
        async with ChatCompletionsStandIn(reply=broken) as service:
            await post(service, asking())
            raise KeyError("the test's own error comes first")

    with pytest.raises(ZeroDivisionError, match="own function"):
        await a_test()
    with pytest.raises(KeyError, match="the test's"):
        await a_test_that_fails()


async def test_an_answer_that_cannot_be_sent_does_not_pass_unseen():
    async def a_test():
        async with ChatCompletionsStandIn() as service:
            service.script(Fail(429, headers={"x-note": "one\ntwo"}))
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await post(service, asking())
            await service.wait_until_idle()
            assert service.last.ending == "cut"

    with pytest.raises(ValueError, match="header"):
        await a_test()


def test_a_script_that_raises_does_not_pass_unseen_in_a_thread():
    def broken(request):
        raise ZeroDivisionError

    def a_test():
        with ChatCompletionsStandIn(reply=broken) as service:
            assert "ZeroDivisionError" in ask_blocking(service.base_url, asking())["error"]["message"]

    with pytest.raises(ZeroDivisionError):
        a_test()


# The journal.


async def test_the_journal_tells_what_came():
    async with ChatCompletionsStandIn() as service:
        with pytest.raises(LookupError, match="wait_for_requests"):
            _ = service.last
        async with aiohttp.ClientSession() as session:
            url = f"{service.base_url}/chat/completions?api-version=1"
            sent = b' {"model":"m", "messages":[{"role":"user","content":"hi"}]}'
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "X-Mine": "Yes"}
            response = await session.post(url, data=sent, headers=headers)
            assert response.headers["x-request-id"] == "req_000001"
            await response.read()
        record = service.last
        assert (record.method, record.path, dict(record.query)) == ("POST", PATH, {"api-version": "1"})
        assert record.body == sent
        assert record.json["messages"] == service.messages(0) == [{"role": "user", "content": "hi"}]
        assert record.headers["x-mine"] == "Yes"
        assert (record.status, record.ending, record.refusal) == (200, "complete", None)
        assert record.request_id == "req_000001"
        assert record.at >= 0
        assert service.refused == []


@pytest.mark.parametrize("name", ["Authorization", "api-key", "x-api-key", "Cookie"])
async def test_the_journal_holds_no_keys(name):
    async with ChatCompletionsStandIn() as service:
        await post(service, asking(), **{name: KEY if name != "Authorization" else f"Bearer {KEY}"})
        assert service.last.headers[name.lower()].endswith("sk-***cdef")
        await post(service, asking(), **{name: "short"})
        assert service.last.headers[name.lower()] == "***"
        assert KEY not in repr(service.requests)


async def test_the_journal_keeps_no_more_than_asked():
    async with ChatCompletionsStandIn(keep=2) as service:
        for number in range(5):
            await post(service, asking(str(number)))
        assert [record.json["messages"][0]["content"] for record in service.requests] == ["3", "4"]
        assert [record.number for record in service.requests] == [4, 5]
        await service.wait_for_requests(5)


async def test_waiting_for_requests_that_do_not_come_says_what_came():
    async with ChatCompletionsStandIn() as service:
        await post(service, {"model": "m"})
        with pytest.raises(TimeoutError, match=r"for 2 requests; 1 came, last: #1 POST .* \(400, complete\): Missing"):
            await service.wait_for_requests(2, timeout=0.01)
        asked = asyncio.create_task(post(service, asking()))
        await service.wait_for_requests(2)
        await asked


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [None, 0, 1])
async def test_a_client_that_goes_away_is_noticed(stream, after):
    async with ChatCompletionsStandIn() as service:
        service.script(Hang(after=after))
        asked = asyncio.create_task(post(service, asking(stream=stream)))
        await service.wait_for_requests(1)
        await asyncio.sleep(0.05)
        assert service.last.ending is None
        asked.cancel()
        await service.wait_until_idle()
        assert service.last.disconnected
        assert service.last.status == (None if after is None else 200)


async def test_a_client_that_goes_away_between_two_chunks_is_noticed():
    async with ChatCompletionsStandIn(chunk_delay=0.01) as service:
        service.script(Say(pieces=["x"] * 1000))
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"{service.base_url}/chat/completions", json=asking(stream=True))
            await response.content.readline()
            response.close()
        await service.wait_until_idle()
        assert service.last.disconnected


async def test_a_client_that_closes_after_the_last_byte_has_not_gone_away():
    async with ChatCompletionsStandIn() as service, aiohttp.ClientSession() as session:
        for _ in range(20):
            response = await session.post(f"{service.base_url}/chat/completions", json=asking(stream=True))
            while await response.content.readline() != b"data: [DONE]\n":
                pass
            response.close()
        await service.wait_until_idle()
        assert {record.ending for record in service.requests} == {"complete"}


async def test_a_body_that_never_comes_in_whole_is_no_request():
    async with ChatCompletionsStandIn() as service:
        port = int(service.base_url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b"{")
            await asyncio.sleep(0.05)
        await post(service, asking())
        assert len(service.requests) == 1


# Faults, as bytes. A stream of "a b c" is five writes: role, a, b, c, finish; and [DONE].

ABC = Say("a b c")


async def test_a_stream_is_one_write_a_chunk():
    async with ChatCompletionsStandIn(reply=lambda request: ABC) as service:
        got, _ = await raw(service, asking(stream=True))
        assert b"content-type: text/event-stream" in got
        assert [int(size, 16) for size in re.findall(rb"\r\n([0-9a-f]+)\r\n(?=data|\r\n)", got)][:-1] == [
            len(frame) + len(b"data: \n\n") for frame in frames(got)
        ]
        assert len(frames(got)) == 6
        assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("fault", "whole_frames", "status", "proper_end", "reset"),
    [
        (CutStream(after=None), 0, None, False, False),
        (CutStream(after=0), 0, 200, False, False),
        (CutStream(), 1, 200, False, False),
        (CutStream(after=3), 3, 200, False, False),
        (CutStream(after=99), 6, 200, False, False),
        (CutStream(after=2, how="clean"), 2, 200, True, False),
        (CutStream(after=0, how="clean"), 0, 200, True, False),
        (CutStream(after=None, how="reset"), 0, None, False, True),
        (FailInStream(after=2), 3, 200, True, False),
        (BrokenJSON(after=2), 6, 200, True, False),
        (Hang(0.01, after=2), 6, 200, True, False),
        (Hang(0.01), 6, 200, True, False),
    ],
)
async def test_faults_of_a_stream(fault, whole_frames, status, proper_end, reset):
    async with ChatCompletionsStandIn(reply=lambda request: ABC) as service:
        service.script(fault)
        got, was_reset = await raw(service, asking(stream=True))
        assert len(frames(got)) == whole_frames
        assert got.startswith(b"HTTP/1.1 200") == (status == 200)
        assert (got == b"") == (status is None)
        assert got.endswith(b"0\r\n\r\n") == proper_end
        assert was_reset == reset
        await service.wait_until_idle()
        cut = isinstance(fault, CutStream) and fault.how != "clean"
        assert (service.last.status, service.last.ending) == (status, "cut" if cut else "complete")


async def test_a_frame_is_cut_in_its_middle():
    async with ChatCompletionsStandIn(reply=lambda request: ABC) as service:
        service.script(ABC, CutStream(after=2, mid_frame=True), CutStream(after=2, mid_frame=True, how="clean"))
        whole, _ = await raw(service, asking(stream=True))
        for _ in range(2):
            torn, _ = await raw(service, asking(stream=True))
            *good, half = frames(torn)
            assert [json.loads(frame)["choices"][0]["delta"].get("content") for frame in good] == ["", "a "]
            assert len(half) == pytest.approx(len(frames(whole)[2]) / 2, abs=5)
            with pytest.raises(json.JSONDecodeError):
                json.loads(half)


async def test_json_is_broken_in_one_frame_only():
    async with ChatCompletionsStandIn() as service:
        service.script(BrokenJSON(after=2, answer=Say("a é" * 30)))
        got, _ = await raw(service, asking(stream=True))
        sound = []
        for frame in frames(got)[:-1]:
            try:
                sound.append(bool(json.loads(frame)))
            except json.JSONDecodeError:
                sound.append(False)
        assert [index for index, fine in enumerate(sound) if not fine] == [2]
        got.decode()


@pytest.mark.parametrize("fault", [CutStream(), CutStream(after=4), CutStream(how="reset"), CutStream(after=0)])
async def test_a_whole_body_is_cut_in_its_middle(fault):
    async with ChatCompletionsStandIn(reply=lambda request: ABC) as service:
        service.script(fault)
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
            await post(service, asking())
        await service.wait_until_idle()
        assert (service.last.status, service.last.ending) == (200, "cut")
        got, _ = await raw(service, asking())
        length = int(re.search(rb"Content-Length: (\d+)", got).group(1))
        service.script(CutStream())
        half, _ = await raw(service, asking())
        assert len(half.partition(b"\r\n\r\n")[2]) == length // 2


@pytest.mark.parametrize("fault", [BrokenJSON(after=3), CutStream(how="clean")])
async def test_a_whole_body_with_broken_json_is_sound_http(fault):
    async with ChatCompletionsStandIn(reply=lambda request: ABC) as service:
        service.script(fault)
        status, body, headers = await post(service, asking())
        assert (status, int(headers["content-length"])) == (200, len(body))
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)


async def test_a_hanging_body_comes_in_the_end():
    async with ChatCompletionsStandIn() as service:
        service.script(Hang(0.01, after=1, answer="late"), Hang(0.01, answer=Fail(503)))
        assert b"late" in (await post(service, asking()))[1]
        assert (await post(service, asking()))[0] == 503


async def test_an_error_with_status_200():
    async with ChatCompletionsStandIn() as service:
        service.script(FailInStream(code="overloaded"))
        status, body, _ = await post(service, asking())
        assert (status, json.loads(body)["error"]["code"]) == (200, "overloaded")


async def test_faults_nest():
    async with ChatCompletionsStandIn() as service:
        service.script(Hang(0.01, answer=CutStream(after=2, answer=Say("x y z"))))
        got, _ = await raw(service, asking(stream=True))
        assert len(frames(got)) == 2


async def test_an_answer_of_no_dialect_is_an_error_of_the_test():
    class Unheard(Answer):
        pass

    async def a_test():
        async with ChatCompletionsStandIn() as service:
            service.script(Unheard())
            await post(service, asking())

    with pytest.raises(TypeError, match="Unheard is no answer"):
        await a_test()
