"""Every rule of the strict Chat Completions stand-in: for each, requests that pass and requests that do not."""

import aiohttp
import pytest

from holdfast.testing import openai_chat_rules as rules
from holdfast.testing.openai_chat import LENIENT, STRICT, ChatCompletionsStandIn, RequestRefused
from holdfast.testing.openai_chat_messages import estimated_tokens
from holdfast.testing.openai_chat_parameters import PARAMETERS
from holdfast.testing.openai_checks import Field

USER = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def body(*messages, **parameters):
    return {"model": "gpt-test", "messages": list(messages or [USER]), **parameters}


def call(call_id="c1", name="weather", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*tool_calls, **more):
    return {"role": "assistant", "tool_calls": list(tool_calls), **more}


def result(call_id="c1", content="sunny"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def image(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def answered(message):
    """The message, with results for its calls."""
    return body(USER, message, *(result(made["id"]) for made in message["tool_calls"]))


def without(name):
    return {key: value for key, value in body().items() if key != name}


def tool(**function):
    return {"type": "function", "function": function}


# rule, accepted, refused, param (with * what it begins with), code, a part of the message
CASES = [
    ("model_is_named", body(), without("model"), None, None, "must provide a model"),
    ("model_is_named", body(model="x"), body(model=""), None, None, "must provide a model"),
    ("model_is_named", body(), body(model=7), "model", "invalid_type", "expected a string, but got an integer"),
    ("parameters_are_known", body(seed=1), body(thread_id="t"), None, None, "argument supplied: thread_id"),
    ("parameters_are_known", body(n=1), body(a=1, b=2), None, None, "arguments supplied: a, b"),
    ("messages_are_given", body(), without("messages"), "messages", "missing_required_parameter", "'messages'"),
    ("messages_are_given", body(), {**body(), "messages": []}, "messages", "empty_array", "empty array"),
    ("messages_are_given", body(), {**body(), "messages": "hi"}, "messages", "invalid_type", "array of objects"),
    ("messages_are_given", body(), {**body(), "messages": None}, "messages", "invalid_type", "got null"),
]

# parameter, accepted values, refused values with their code
PARAMETER_CASES = [
    ("temperature", [0, 2, 0.7, None], [(-0.1, "decimal_below_min_value"), (2.1, "decimal_above_max_value")]),
    ("temperature", [1], [("hot", "invalid_type"), (True, "invalid_type")]),
    ("top_p", [0, 1, None], [(1.01, "decimal_above_max_value"), (-1, "decimal_below_min_value")]),
    ("frequency_penalty", [-2, 2, None], [(2.5, "decimal_above_max_value")]),
    ("presence_penalty", [-2, 2, None], [(-2.5, "decimal_below_min_value")]),
    ("max_tokens", [1, 100_000, None], [(0, "integer_below_min_value"), (1.5, "invalid_type"), ("9", "invalid_type")]),
    ("max_completion_tokens", [1, None], [(-1, "integer_below_min_value"), (True, "invalid_type")]),
    ("n", [1, 128, None], [(0, "integer_below_min_value"), (129, "integer_above_max_value")]),
    ("stop", ["x", ["a", "b", "c", "d"], None], [(list("abcde"), "array_above_max_length"), (5, "invalid_type")]),
    ("stop", [["x"]], [([1], "invalid_type")]),
    ("stream", [True, False, None], [("yes", "invalid_type")]),
    ("store", [True, None], [(1, "invalid_type")]),
    ("logprobs", [True, None], [("true", "invalid_type")]),
    ("seed", [7, -7, None], [(0.5, "invalid_type"), (2**63, "integer_above_max_value")]),
    ("user", ["u"], [(None, "invalid_type"), (5, "invalid_type")]),
    ("safety_identifier", ["s", None], [("s" * 129, "string_above_max_length")]),
    ("prompt_cache_key", ["k", None], [(1, "invalid_type")]),
    ("prompt_cache_options", [{"mode": "implicit"}], [({"mood": 1}, "unknown_parameter"), (None, "invalid_type")]),
    ("prompt_cache_retention", ["24h", None], [("48h", "invalid_value")]),
    ("reasoning_effort", ["low", None], [("huge", "invalid_value"), (3, "invalid_type")]),
    ("verbosity", ["low", None], [("loud", "invalid_value")]),
    ("service_tier", ["auto", None], [("first", "invalid_value")]),
    ("metadata", [{"a": "b"}, None], [({"a": 1}, "invalid_type"), ({"k" * 65: "v"}, "string_above_max_length")]),
    ("metadata", [{}], [({str(i): "v" for i in range(17)}, "object_above_max_properties")]),
    ("metadata", [{}], [({"a": "v" * 513}, "string_above_max_length"), ([], "invalid_type")]),
    ("logit_bias", [{"50256": -100}, None], [({"50256": 101}, "decimal_above_max_value"), ({"a": 1}, "invalid_value")]),
    ("modalities", [["text"], None], [(["smell"], "invalid_value"), ([], "empty_array")]),
    ("audio", [{"voice": "alloy", "format": "wav"}, None], [({"tune": 1}, "unknown_parameter")]),
    ("moderation", [{"model": "omni"}, None], [("omni", "invalid_type")]),
    ("prediction", [{"type": "content", "content": "x"}, None], [({"type": "x", "content": ""}, "invalid_value")]),
    ("prediction", [None], [({"type": "content", "content": 1}, "invalid_type")]),
    ("web_search_options", [{"search_context_size": "low"}], [({"q": 1}, "unknown_parameter")]),
    ("response_format", [{"type": "text"}], [({"type": "yaml"}, "invalid_value"), (None, "invalid_type")]),
    (
        "response_format",
        [{"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}],
        [
            ({"type": "json_schema"}, "missing_required_parameter"),
            ({"type": "json_schema", "json_schema": {"name": "a b"}}, "invalid_value"),
            ({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, "invalid_type"),
            ({"type": "json_schema", "schema": {}}, "unknown_parameter"),
        ],
    ),
    ("functions", [[{"name": "f"}]], [([], "empty_array"), ([{"name": "f g"}], "invalid_value")]),
    ("function_call", ["auto", {"name": "f"}], [("must", "invalid_value"), ({}, "missing_required_parameter")]),
    (
        "tools",
        [[TOOL], [tool(name="a", strict=True)], [{"type": "custom", "custom": {"name": "c"}}]],
        [
            ([], "empty_array"),
            ("weather", "invalid_type"),
            (None, "invalid_type"),
            ([tool(name="a")] * 129, "array_above_max_length"),
            ([{"function": {"name": "a"}}], "missing_required_parameter"),
            ([{"type": "retrieval"}], "invalid_value"),
            ([{"type": "function"}], "missing_required_parameter"),
            ([{"type": "function", "name": "a"}], "unknown_parameter"),
            ([tool()], "missing_required_parameter"),
            ([tool(name="two words")], "invalid_value"),
            ([tool(name="line\n")], "invalid_value"),
            ([tool(name="")], "empty_string"),
            ([tool(name="n" * 65)], "string_above_max_length"),
            ([tool(name="a", parameters=[])], "invalid_type"),
            ([tool(name="a", description=1)], "invalid_type"),
            ([tool(name="a", strict="yes")], "invalid_type"),
            ([tool(name="a", schema={})], "unknown_parameter"),
        ],
    ),
]
COMPANIONS = {  # what a parameter needs beside it, so that no other rule refuses it
    "function_call": {"functions": [{"name": "f"}]},
}
for name, good, bad in PARAMETER_CASES:
    beside = COMPANIONS.get(name, {})
    for value, code in bad:
        refused = body(**beside, **{name: value})
        CASES += [
            ("parameters_fit", body(**beside, **{name: fine}), refused, f"{name}*", code, "") for fine in good[:1]
        ]
    CASES += [("parameters_fit", body(**beside, **{name: fine}), None, None, None, "") for fine in good[1:]]
CASES += [
    (
        "parameters_fit",
        body(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False),
        body(tools=[TOOL], tool_choice=bad),
        "tool_choice*",
        code,
        "",
    )
    for choice, bad, code in [
        ("auto", "maybe", "invalid_value"),
        ("none", None, "invalid_type"),
        ("required", {"type": "function"}, "missing_required_parameter"),
        ({"type": "function", "function": {"name": "weather"}}, {"type": "function", "name": "w"}, "unknown_parameter"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "never", "tools": [TOOL]}},
            "invalid_value",
        ),
    ]
]
CASES += [
    (
        "parameters_fit",
        body(stream=True, stream_options=good),
        body(stream=True, stream_options=bad),
        "stream_options*",
        code,
        "",
    )
    for good, bad, code in [
        ({"include_usage": True}, {"include_usage": 1}, "invalid_type"),
        ({"include_obfuscation": False}, {"usage": True}, "unknown_parameter"),
    ]
]

# accepted message or body, refused message or body, param, code
MESSAGE_CASES = [
    (USER, {"content": "hi"}, "messages[0].role", "missing_required_parameter"),
    ({"role": "developer", "content": "x"}, {"role": "robot", "content": "x"}, "messages[0].role", "invalid_value"),
    ({"role": "system", "content": "x"}, {"role": 1, "content": "x"}, "messages[0].role", "invalid_type"),
    (USER, "hi", "messages[0]", "invalid_type"),
    (USER, {**USER, "id": "m1"}, "messages[0].id", "unknown_parameter"),
    (USER, {**USER, "tool_calls": [call()]}, "messages[0].tool_calls", "unknown_parameter"),
    # names
    ({**USER, "name": "Anna"}, {**USER, "name": "Anna B"}, "messages[0].name", "invalid_value"),
    ({**USER, "name": "Äse.1"}, {**USER, "name": "a<b"}, "messages[0].name", "invalid_value"),
    ({**USER, "name": "n" * 64}, {**USER, "name": "n" * 65}, "messages[0].name", "string_above_max_length"),
    ({**USER, "name": "n"}, {**USER, "name": ""}, "messages[0].name", "empty_string"),
    # content that is missing, null or of a wrong kind
    ({"role": "user", "content": ""}, {"role": "user"}, "messages[0].content", "missing_required_parameter"),
    (USER, {"role": "user", "content": None}, "messages.[0].content", None),
    ({"role": "system", "content": "x"}, {"role": "system", "content": None}, "messages.[0].content", None),
    (USER, {"role": "user", "content": 5}, "messages[0].content", "invalid_type"),
    (user({"type": "text", "text": "x"}), user(), "messages[0].content", "empty_array"),
    (user({"type": "text", "text": "x"}), user("x"), "messages[0].content[0]", "invalid_type"),
    ({"role": "assistant", "content": "x"}, {"role": "assistant", "content": None}, "messages.[0].content", None),
    (
        {"role": "assistant", "content": "", "refusal": None, "annotations": []},
        {"role": "assistant"},
        "messages[0].content",
        "missing_required_parameter",
    ),
    (
        {"role": "assistant", "audio": {"id": "a1"}},
        {"role": "assistant", "content": None, "refusal": "no"},
        "messages.[0].content",
        None,
    ),
    (
        {"role": "assistant", "content": "x", "refusal": None},
        {"role": "assistant", "content": "x", "refusal": 1},
        "messages[0].refusal",
        "invalid_type",
    ),
    (
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": "x", "reasoning_content": "y"},
        "messages[0].reasoning_content",
        "unknown_parameter",
    ),
    (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": {}}},
        "messages[0].function_call.arguments",
        "invalid_type",
    ),
    (
        {"role": "function", "name": "f", "content": None},
        {"role": "function", "content": "x"},
        "messages[0].name",
        "missing_required_parameter",
    ),
    # parts, by role
    (
        user({"type": "text", "text": "x"}),
        user({"text": "x"}),
        "messages[0].content[0].type",
        "missing_required_parameter",
    ),
    (
        user({"type": "text", "text": "x"}),
        user({"type": "text", "text": None}),
        "messages[0].content[0].text",
        "invalid_type",
    ),
    (
        user({"type": "text", "text": "x"}),
        user({"type": "refusal", "refusal": "x"}),
        "messages[0].content[0].type",
        "invalid_value",
    ),
    (
        user({"type": "text", "text": "x"}),
        user({"type": "text", "text": "x", "id": 1}),
        "messages[0].content[0].id",
        "unknown_parameter",
    ),
    (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "x"}]},
        "messages[0].content",
        "invalid_value",
    ),
    (
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    (user(image(PNG)), {"role": "assistant", "content": [image(PNG)]}, "messages[0]", "invalid_value"),
    (user(image(PNG)), {"role": "system", "content": [image(PNG)]}, "messages[0]", "invalid_value"),
    (
        {"role": "system", "content": [{"type": "text", "text": "x"}]},
        {"role": "system", "content": [{"type": "file", "file": {"file_id": "f"}}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    # images, recordings, files
    (
        user(image("https://example.org/a.png", detail="low")),
        user(image("https://example.org/a.png", detail="best")),
        "messages[0].content[0].image_url.detail",
        "invalid_value",
    ),
    (
        user(image("http://example.org/a")),
        user(image("a.png")),
        "messages[0].content[0].image_url.url",
        "invalid_value",
    ),
    (user(image(PNG)), user(image("file:///a.png")), "messages[0].content[0].image_url.url", "invalid_value"),
    (user(image(PNG)), user(image(PDF)), "messages[0].content[0].image_url.url", "invalid_value"),
    (
        user(image(PNG)),
        user(image("data:image/png;base64,???")),
        "messages[0].content[0].image_url.url",
        "invalid_value",
    ),
    (
        user(image(PNG)),
        user({"type": "image_url", "image_url": PNG}),
        "messages[0].content[0].image_url",
        "invalid_type",
    ),
    (
        user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "ogg"}}),
        "messages[0].content[0].input_audio.format",
        "invalid_value",
    ),
    (
        user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}}),
        user({"type": "input_audio", "input_audio": {"data": "not base64", "format": "mp3"}}),
        "messages[0].content[0].input_audio.data",
        "invalid_value",
    ),
    (
        user({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}}),
        user({"type": "file", "file": {"file_data": "JVBERi0=", "filename": "a.pdf"}}),
        "messages[0].content[0].file.file_data",
        "invalid_value",
    ),
    (
        user({"type": "file", "file": {"file_id": "file-1"}}),
        user({"type": "file", "file": {"filename": "a.pdf"}}),
        "messages[0].content[0].file.file_id",
        "missing_required_parameter",
    ),
    # calls and results by themselves
    (answered(calls(call())), body(USER, calls()), "messages[1].tool_calls", "empty_array"),
    (
        answered(calls(call(), content=None)),
        body(USER, {"role": "assistant", "content": "x", "tool_calls": None}),
        "messages[1].tool_calls",
        "invalid_type",
    ),
    (
        answered(calls(call("c" * 40))),
        answered(calls(call("c" * 41))),
        "messages[1].tool_calls[0].id",
        "string_above_max_length",
    ),
    (
        answered(calls(call(), content="Let me see.")),
        answered(calls(call(), content=[])),
        "messages[1].content",
        "empty_array",
    ),
    (answered(calls(call())), answered(calls(call(""))), "messages[1].tool_calls[0].id", "empty_string"),
    (
        answered(calls(call())),
        body(USER, calls({"type": "function", "function": {"name": "f", "arguments": ""}})),
        "messages[1].tool_calls[0].id",
        "missing_required_parameter",
    ),
    (
        answered(calls({"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}})),
        answered(calls({"id": "c1", "type": "retrieval"})),
        "messages[1].tool_calls[0].type",
        "invalid_value",
    ),
    (
        answered(calls(call())),
        answered(calls({"id": "c1", "function": {"name": "f", "arguments": ""}})),
        "messages[1].tool_calls[0].type",
        "missing_required_parameter",
    ),
    (
        answered(calls(call(arguments="not json at all"))),
        answered(calls(call(arguments={"city": "Oslo"}))),
        "messages[1].tool_calls[0].function.arguments",
        "invalid_type",
    ),
    (
        answered(calls(call())),
        answered(calls(call(name="get weather"))),
        "messages[1].tool_calls[0].function.name",
        "invalid_value",
    ),
    (
        answered(calls(call())),
        answered(calls({**call(), "index": 0})),
        "messages[1].tool_calls[0].index",
        "unknown_parameter",
    ),
    (
        answered(calls(*(call(f"c{i}") for i in range(128)))),
        answered(calls(*(call(f"c{i}") for i in range(129)))),
        "messages[1].tool_calls",
        "array_above_max_length",
    ),
    (
        body(USER, calls(call()), {**result(), "name": "weather"}),
        body(USER, calls(call()), {"role": "tool", "content": "x"}),
        "messages[2].tool_call_id",
        "missing_required_parameter",
    ),
    (
        body(USER, calls(call()), result(content="")),
        body(USER, calls(call()), result(content=None)),
        "messages.[2].content",
        None,
    ),
    (
        body(USER, calls(call()), result(content=[{"type": "text", "text": "x"}])),
        body(USER, calls(call()), result(content=[image(PNG)])),
        "messages[2]",
        "invalid_value",
    ),
]


def as_body(given):
    return given if isinstance(given, dict) and "messages" in given else body(given)


CASES += [("messages_fit", as_body(good), as_body(bad), param, code, "") for good, bad, param, code in MESSAGE_CASES]

PAIRED = body(USER, calls(call("a"), call("b")), result("b"), result("a"), USER)
PAIRING = "tool_calls_are_answered"
CASES += [
    (PAIRING, PAIRED, body(USER, calls(call("a"), call("b")), result("b"), USER), "messages.[3].role", None, ": a"),
    (PAIRING, PAIRED, body(USER, calls(call("a"), call("b"))), "messages", None, ": a, b"),
    (PAIRING, PAIRED, body(USER, calls(call("a")), USER, result("a")), "messages.[2].role", None, "must be followed"),
    (PAIRING, PAIRED, body(result()), "messages.[0].role", None, "must be a response to a preceeding message"),
    (PAIRING, PAIRED, body(USER, result()), "messages.[1].role", None, "must be a response"),
    (
        PAIRING,
        body(USER, calls(call()), result(), {"role": "assistant", "content": "sunny"}),
        body(USER, {"role": "assistant", "content": "x"}, result()),
        "messages.[2].role",
        None,
        "must be a response",
    ),
    (PAIRING, PAIRED, body(USER, calls(call("a")), result("z")), "messages.[2].tool_call_id", None, "'z' not found"),
    (
        PAIRING,
        PAIRED,
        body(USER, calls(call("a"), call("b")), result("a"), result("a")),
        "messages.[3].tool_call_id",
        None,
        "in messages[2] and messages[3]",
    ),
    (
        PAIRING,
        # The same id in a later turn is another call.
        body(USER, calls(call("a")), result("a"), USER, calls(call("a")), result("a")),
        body(USER, calls(call("a"), call("a")), result("a")),
        "messages.[1].tool_calls.[1].id",
        None,
        "Duplicate value",
    ),
    (
        "tools_are_offered",
        body(tools=[TOOL], tool_choice="auto"),
        body(tool_choice="auto"),
        "tool_choice",
        None,
        "only allowed when 'tools'",
    ),
    (
        "tools_are_offered",
        body(tools=[TOOL], parallel_tool_calls=True),
        body(parallel_tool_calls=True),
        "parallel_tool_calls",
        None,
        "only allowed when 'tools'",
    ),
    (
        "tools_are_offered",
        body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}),
        body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "whether"}}),
        "tool_choice",
        None,
        "whether",
    ),
    (
        "stream_options_need_stream",
        body(stream=True, stream_options={"include_usage": True}),
        body(stream_options={"include_usage": True}),
        "stream_options",
        None,
        "only allowed when 'stream' is enabled",
    ),
    (
        "top_logprobs_need_logprobs",
        body(logprobs=True, top_logprobs=20),
        body(top_logprobs=2),
        "top_logprobs",
        None,
        "only allowed when 'logprobs'",
    ),
    (
        "parameters_fit",
        body(logprobs=True, top_logprobs=0),
        body(logprobs=True, top_logprobs=21),
        "top_logprobs",
        "integer_above_max_value",
        "<= 20",
    ),
    (
        "one_limit_of_tokens",
        body(max_completion_tokens=5, max_tokens=None),
        body(max_completion_tokens=5, max_tokens=5),
        "max_tokens",
        "invalid_parameter_combination",
        "at the same time",
    ),
    (
        "model_supports_parameters",
        body(model="gpt-4o", max_tokens=5),
        body(model="o3-mini", max_tokens=5),
        "max_tokens",
        "unsupported_parameter",
        "Use 'max_completion_tokens' instead",
    ),
    (
        "model_supports_parameters",
        body(model="gpt-5-mini", max_completion_tokens=5),
        body(model="gpt-5", max_tokens=5),
        "max_tokens",
        "unsupported_parameter",
        "",
    ),
    ("model_supports_parameters", body(stop="x"), body(model="o3", stop="x"), "stop", "unsupported_parameter", ""),
    (
        "json_mode_is_announced",
        body({"role": "user", "content": "Answer in JSON."}, response_format={"type": "json_object"}),
        body(response_format={"type": "json_object"}),
        "messages",
        None,
        "the word 'json'",
    ),
]


@pytest.mark.parametrize(("rule", "accepted", "refused", "param", "code", "told"), CASES)
def test_a_rule_accepts_and_refuses(rule, accepted, refused, param, code, told):
    for each in STRICT:
        each(Field(accepted))
    if refused is None:
        return
    for each in STRICT[: STRICT.index(getattr(rules, rule))]:
        each(Field(refused))
    with pytest.raises(RequestRefused) as caught:
        getattr(rules, rule)(Field(refused))
    refusal = caught.value
    assert (refusal.status, refusal.type) == (400, "invalid_request_error")
    assert refusal.param == param or (param and param.endswith("*") and refusal.param.startswith(param[:-1]))
    assert refusal.code == code
    assert told in refusal.message


def test_every_rule_and_every_parameter_has_its_cases():
    assert {case[0] for case in CASES} == {rule.__name__ for rule in STRICT}
    tried = {name for case in CASES for tried in case[1:3] if tried for name in tried}
    assert set(PARAMETERS) <= tried


async def test_what_the_rules_say_is_what_the_wire_says():
    """Each request once over HTTP: accepted ones get 200, refused ones 400 with the error's four members."""
    async with ChatCompletionsStandIn() as service, aiohttp.ClientSession() as session:
        for rule, accepted, refused, _, _, _ in CASES:
            async with session.post(f"{service.base_url}/chat/completions", json=accepted) as response:
                assert response.status == 200, (rule, await response.text())
                await response.read()
            if refused is None:
                continue
            async with session.post(f"{service.base_url}/chat/completions", json=refused) as response:
                error = (await response.json())["error"]
                assert response.status == 400, rule
                assert set(error) == {"message", "type", "param", "code"}
                assert service.last.refusal == error["message"]
        assert len(service.refused) == sum(case[2] is not None for case in CASES)


def test_the_context_is_counted_in_quarters_of_characters():
    messages = [{"role": "user", "content": "x" * 400}, calls(call(name="abcd", arguments="1234"), content=None)]
    assert estimated_tokens(messages) == 102
    rules.context_fits(102)(Field(body(*messages)))
    with pytest.raises(RequestRefused) as caught:
        rules.context_fits(101)(Field(body(*messages)))
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert "maximum context length is 101 tokens" in caught.value.message
    assert "resulted in 102 tokens" in caught.value.message


@pytest.mark.parametrize("messages", [[1, "x"], [{"role": "tool"}], [{"role": "user", "content": [1]}], [{}]])
async def test_lenient_rules_take_nearly_anything(messages):
    async with ChatCompletionsStandIn(rules=LENIENT) as service, aiohttp.ClientSession() as session:
        given = {"messages": messages, "n": "x", "stream_options": 1, "thinking": True}
        async with session.post(f"{service.base_url}/chat/completions", json=given) as response:
            assert response.status == 200
        async with session.post(f"{service.base_url}/chat/completions", json={"messages": []}) as response:
            assert response.status == 400


async def test_a_rule_of_ones_own_is_added_to_the_tuple():
    def only_short_talks(request: Field) -> None:
        if len(request.value["messages"]) > 1:
            raise RequestRefused("Too long.", code="too_long")

    async with ChatCompletionsStandIn(rules=(*STRICT, only_short_talks)) as service, aiohttp.ClientSession() as session:
        response = await session.post(f"{service.base_url}/chat/completions", json=body(USER, USER))
        assert (await response.json())["error"]["code"] == "too_long"
