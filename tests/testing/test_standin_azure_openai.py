"""The stand-in for Azure OpenAI, met by its real clients: the official openai package in both forms of the address,
with keys and with tokens, and azure-identity's real AzureCliCredential over a stub of the `az` program."""

from contextlib import aclosing

import aiohttp
import openai
import pytest
from azure.identity import AzureCliCredential, get_bearer_token_provider
from stub_az import StubAz

from holdfast.testing.azure_openai import AzureOpenAIStandIn, BlockPrompt
from holdfast.testing.openai_chat import CallTools, CutStream, Fail, Say, Usage

HI = [{"role": "user", "content": "hi"}]
KEY = "0123456789abcdef0123456789abcdef"
TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzdGFuZC1pbiJ9.c2lnbmF0dXJl"
VERSION = "2024-10-21"


@pytest.fixture
async def service():
    async with AzureOpenAIStandIn(api_key=KEY, tokens=[TOKEN], deployments=["chat"]) as running:
        yield running


@pytest.fixture
async def connect():
    made = []

    def connect(service, form, **credential):
        credential = credential or {"api_key": KEY}
        if form == "v1":
            key = credential.get("api_key") or credential["azure_ad_token"]
            client = openai.AsyncOpenAI(base_url=f"{service.endpoint}/openai/v1/", api_key=key, max_retries=0)
        else:
            client = openai.AsyncAzureOpenAI(
                azure_endpoint=service.endpoint, api_version=VERSION, max_retries=0, **credential
            )
        made.append(client)
        return client

    yield connect
    for client in made:
        await client.close()


both = pytest.mark.parametrize("form", ["v1", "deployments"])


async def ask(client, model="chat", messages=HI, **parameters):
    return await client.chat.completions.create(model=model, messages=messages, **parameters)


async def collect(client, chunks, **parameters):
    async with aclosing(await ask(client, stream=True, **parameters)) as incoming:
        async for chunk in incoming:
            chunks.append(chunk)


async def stream(client, **parameters):
    chunks = []
    await collect(client, chunks, **parameters)
    return chunks


def told(chunks):
    """The texts of the chunks that have any, whatever else they hold."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices if choice.delta)


async def post(service, path, headers=None, body=None):
    """One request without a client."""
    body = {"model": "chat", "messages": HI} if body is None else body
    async with aiohttp.ClientSession() as session:
        answer = await session.post(service.endpoint + path, json=body, headers={"api-key": KEY, **(headers or {})})
        return answer.status, await answer.json(), answer.headers


# Answers.


@both
async def test_a_whole_answer(service, connect, form):
    service.script(Say("Ahoy!", usage=Usage(3, 4)))
    answer = await ask(connect(service, form))
    assert answer.choices[0].message.content == "Ahoy!"
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.usage.total_tokens == 7
    assert answer.choices[0].content_filter_results["hate"] == {"filtered": False, "severity": "safe"}
    assert answer.prompt_filter_results[0]["content_filter_results"]["jailbreak"]["detected"] is False
    assert service.refused == []
    assert service.messages(-1) == HI
    paths = {"v1": "/openai/v1/chat/completions", "deployments": "/openai/deployments/chat/chat/completions"}
    assert service.last.path == paths[form]
    assert service.last.query == ({} if form == "v1" else {"api-version": VERSION})


@both
async def test_a_streamed_answer(service, connect, form):
    service.script(Say("Ahoy, my matey!"))
    first, *chunks, last = await stream(connect(service, form), stream_options={"include_usage": True})
    assert (first.choices, first.id, first.model) == ([], "", "")
    assert first.prompt_filter_results[0]["content_filter_results"]["violence"]["severity"] == "safe"
    assert told(chunks) == "Ahoy, my matey!"
    found = [chunk.choices[0].content_filter_results for chunk in chunks]
    assert found[0] == found[-1] == {}
    assert all(one["sexual"] == {"filtered": False, "severity": "safe"} for one in found[1:-1])
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], 4)


@both
async def test_the_synchronous_client(form):
    with AzureOpenAIStandIn(api_key=KEY) as service:
        if form == "v1":
            client = openai.OpenAI(base_url=f"{service.endpoint}/openai/v1/", api_key=KEY)
        else:
            client = openai.AzureOpenAI(azure_endpoint=service.endpoint, api_version=VERSION, api_key=KEY)
        with client:
            answer = client.chat.completions.create(model="chat", messages=HI)
            chunks = list(client.chat.completions.create(model="chat", messages=HI, stream=True))
        assert answer.choices[0].message.content == told(chunks) == "You said: hi (message 1)"


async def test_a_deployment_in_the_clients_own_address(service):
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=service.endpoint, azure_deployment="chat", api_version=VERSION, api_key=KEY
    ) as client:
        assert (await ask(client, "whatever")).choices[0].message.content == "You said: hi (message 1)"
        assert service.last.path == "/openai/deployments/chat/chat/completions"
        assert service.last.json["model"] == "whatever"


async def test_tool_calls_are_annotated_too(service, connect):
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    service.script(CallTools([("weather", {"city": "Oslo"})]), CallTools([("weather", {"city": "Oslo"})]))
    client = connect(service, "deployments")
    assert (await ask(client, tools=[weather])).choices[0].finish_reason == "tool_calls"
    chunks = await stream(client, tools=[weather])
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_the_asynchronous_filter(connect):
    async with AzureOpenAIStandIn(api_key=KEY, filter="asynchronous") as service:
        service.script(Say("Ahoy, my matey!"), Say("Ahoy, my matey!", finish_reason="content_filter"))
        client = connect(service, "v1")
        chunks = await stream(client)
        assert told(chunks) == "Ahoy, my matey!"
        notes = [chunk.choices[0] for chunk in chunks if chunk.choices and not chunk.choices[0].delta]
        offsets = [note.content_filter_offsets for note in notes]
        assert [one["start_offset"] for one in offsets] == [0, *[one["end_offset"] for one in offsets[:-1]]]
        assert offsets[-1]["end_offset"] == len("Ahoy, my matey!")
        assert chunks[-1].choices[0] is notes[-1]  # after the chunk with the reason
        assert notes[-1].finish_reason is None
        chunks = await stream(client)
        assert told(chunks) == "Ahoy, my matey!"
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        assert chunks[-1].choices[0].content_filter_results["violence"]["filtered"] is True


async def test_no_filter_at_all(connect):
    async with AzureOpenAIStandIn(api_key=KEY, filter="off") as service:
        client = connect(service, "v1")
        assert "prompt_filter_results" not in (await ask(client)).model_extra
        assert all(chunk.choices for chunk in await stream(client))


@both
async def test_an_answer_that_the_filter_cut_off(service, connect, form):
    service.script(*[Say("Ahoy", finish_reason="content_filter")] * 2)
    client = connect(service, form)
    choice = (await ask(client)).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "Ahoy")
    assert choice.content_filter_results["violence"]["filtered"] is True
    chunks = await stream(client)
    assert told(chunks) == "Ahoy"
    assert chunks[-1].choices[0].content_filter_results["violence"]["filtered"] is True


@both
async def test_a_prompt_that_the_filter_blocks(service, connect, form):
    service.script(BlockPrompt("hate", "high"), BlockPrompt("jailbreak"))
    client = connect(service, form)
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client)
    assert (caught.value.code, caught.value.param, caught.value.body["status"]) == ("content_filter", "prompt", 400)
    inner = caught.value.body["innererror"]
    assert inner["code"] == "ResponsibleAIPolicyViolation"
    assert inner["content_filter_result"]["hate"] == {"filtered": True, "severity": "high"}
    assert inner["content_filter_result"]["violence"]["filtered"] is False
    with pytest.raises(openai.BadRequestError) as caught:
        await stream(client)
    assert caught.value.body["innererror"]["content_filter_result"]["jailbreak"] == {"filtered": True, "detected": True}
    assert service.refused == []  # it was scripted


# Credentials.


@both
@pytest.mark.parametrize("credential", [{"api_key": KEY}, {"azure_ad_token": TOKEN}])
async def test_a_key_or_a_token(service, connect, form, credential):
    await ask(connect(service, form, **credential))
    shown = service.last.headers
    assert ("api-key" in shown) == (form == "deployments" and "api_key" in credential)
    assert KEY not in repr(service.last)
    assert TOKEN not in repr(service.last)


@both
async def test_a_wrong_key(service, connect, form):
    with pytest.raises(openai.AuthenticationError) as caught:
        await ask(connect(service, form, api_key="wrong-0123456789"))
    assert caught.value.status_code == 401
    status, body, headers = await post(service, "/openai/v1/chat/completions", {"api-key": "wrong-0123456789"})
    assert (status, body["error"]["code"]) == (401, "401")
    assert set(body["error"]) == {"code", "message"}
    assert headers["apim-request-id"]
    assert len(service.refused) == 2


@both
async def test_a_wrong_token_is_refused_in_another_form(service, connect, form):
    with pytest.raises(openai.AuthenticationError, match="Access token is missing, invalid") as caught:
        await ask(connect(service, form, azure_ad_token="wrong"))
    assert caught.value.body["statusCode"] == 401
    service.tokens.clear()
    with pytest.raises(openai.AuthenticationError):
        await ask(connect(service, form, azure_ad_token=TOKEN))


async def test_a_key_as_a_token_is_for_v1_only(service, connect):
    await ask(connect(service, "v1", api_key=KEY))
    with pytest.raises(openai.AuthenticationError):
        await ask(connect(service, "deployments", azure_ad_token=KEY))


async def test_there_must_be_a_credential_even_if_any_will_do():
    async with AzureOpenAIStandIn() as service, aiohttp.ClientSession() as session:
        for headers, status in (({}, 401), ({"Authorization": "Basic x"}, 401), ({"api-key": "any"}, 200)):
            answer = await session.post(
                f"{service.base_url}/chat/completions", json={"model": "m", "messages": HI}, headers=headers
            )
            await answer.read()
            assert answer.status == status


async def test_a_real_credential_over_a_stub_az(service, tmp_path, monkeypatch):
    az = StubAz(tmp_path / "bin", monkeypatch)
    az.gives(TOKEN)
    scope = "https://cognitiveservices.azure.com/.default"
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=service.endpoint,
        api_version=VERSION,
        azure_ad_token_provider=get_bearer_token_provider(AzureCliCredential(), scope),
    ) as client:
        assert (await ask(client)).choices[0].message.content == "You said: hi (message 1)"
        await ask(client)
    assert az.calls == ["account get-access-token --output json --resource https://cognitiveservices.azure.com"]
    assert service.refused == []
    az.gives("another", only_local_time=True)
    assert AzureCliCredential().get_token(scope).token == "another"


# Refusals.


@both
async def test_a_deployment_that_does_not_exist(service, connect, form):
    with pytest.raises(openai.NotFoundError, match="deployment for this resource does not exist") as caught:
        await ask(connect(service, form), "other")
    assert caught.value.code == "DeploymentNotFound"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/openai/deployments/chat/chat/completions", 404, "404"),
        ("/openai/deployments/chat/chat/completions?api-version=latest", 400, "BadRequest"),
        ("/openai/deployments/chat/chat/completions?api-version=2024-1-1", 400, "BadRequest"),
        ("/openai/deployments/chat/chat/completions?api-version=2025-04-01-preview", 200, None),
        ("/openai/v1/chat/completions?api-version=preview", 200, None),
        ("/openai/v1/chat/completions?api-version=2024-10-21", 400, "BadRequest"),
        ("/openai/v1/completions", 404, "404"),
        ("/v1/chat/completions", 404, "404"),
        ("/chat/completions", 404, "404"),
        ("//openai/v1/chat/completions", 404, "404"),
    ],
)
async def test_addresses(service, path, status, code):
    found, body, _ = await post(service, path)
    assert (found, body.get("error", {}).get("code")) == (status, code)


async def test_the_body_names_the_deployment_in_v1_only(service):
    body = {"messages": HI}
    status, *_ = await post(service, f"/openai/deployments/chat/chat/completions?api-version={VERSION}", body=body)
    assert status == 200
    status, told, _ = await post(service, "/openai/v1/chat/completions", body=body)
    assert (status, told["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("name", ["stream_options", "max_completion_tokens"])
async def test_old_versions_do_not_know_new_parameters(service, name):
    value = {"include_usage": True} if name == "stream_options" else 7
    body = {"messages": HI, "stream": True, name: value}
    for version, status in (("2024-08-01-preview", 400), ("2024-09-01-preview", 200), (VERSION, 200)):
        path = f"{service.endpoint}/openai/deployments/chat/chat/completions?api-version={version}"
        async with aiohttp.ClientSession() as session:
            answer = await session.post(path, json=body, headers={"api-key": KEY})
            told = await answer.text()
            assert (answer.status, f"supplied: {name}" in told) == (status, status == 400)


async def test_openais_rules_hold_in_both_forms(service, connect):
    for form in ("v1", "deployments"):
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(connect(service, form), temperature=7)
        assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    ("fail", "error", "code"),
    [
        (Fail(401), openai.AuthenticationError, "401"),
        (Fail(404), openai.NotFoundError, "DeploymentNotFound"),
        (Fail(429, headers={"Retry-After": "1"}), openai.RateLimitError, "429"),
        (Fail(500), openai.InternalServerError, "InternalServerError"),
        (Fail(400, code="context_length_exceeded"), openai.BadRequestError, "context_length_exceeded"),
        (Fail(503), openai.InternalServerError, None),
    ],
)
async def test_scripted_failures(service, connect, fail, error, code):
    service.script(fail)
    with pytest.raises(error) as caught:
        await ask(connect(service, "deployments"))
    assert caught.value.code == code
    assert "apim-request-id" in caught.value.response.headers


async def test_faults_befall_its_answers_too(service, connect):
    service.script(CutStream(after=3, answer=Say("a b c")))
    chunks = []
    with pytest.raises(openai.APIConnectionError):
        await collect(connect(service, "v1"), chunks)
    assert told(chunks) == "a "  # the first chunk has the annotations, the second the role
