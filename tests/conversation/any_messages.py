"""Messages, turns and JSON of every kind, for the properties that must hold for all of them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec

from holdfast.conversation.messages import (
    ROLES,
    ChatMessage,
    Content,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
)

# Keys that mean something to one library or another when it reads JSON.
LOOK_ALIKES = ("lc", "type", "$type", "__reduce__", "__class__", "py/object", "!!python", "v", "role", "contents", "")

texts = st.text(max_size=20)
names = st.text(max_size=8)

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
keys = st.sampled_from(LOOK_ALIKES) | names
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.sampled_from(LOOK_ALIKES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(keys, json_values, max_size=4)

uris = st.sampled_from(("data:image/png;base64,AAAA", "https://example.org/a.png", "http://example.org/é?a=1&b=%20"))

# Few ids, so that calls and results meet, double and miss each other.
call_ids = st.sampled_from(("a", "b", "c"))
calls = st.builds(ToolCallContent, call_ids, st.sampled_from(("f", "g")), texts)
results = st.builds(ToolResultContent, call_ids, texts, st.booleans())


def _unknown(extra: dict[str, Any], kind: str, indent: int) -> UnknownContent:
    """A kind from the future, written by somebody who formats JSON in another way."""
    raw = msgspec.json.format(msgspec.json.encode({**extra, "type": f"future_{kind}"}), indent=indent)
    return UnknownContent(f"future_{kind}", raw)


unknown = st.builds(_unknown, json_objects, names, st.sampled_from((-1, 0, 3)))
spoken: st.SearchStrategy[Content] = st.one_of(
    st.builds(TextContent, texts),
    st.builds(ReasoningContent, texts),
    st.builds(RefusalContent, texts),
    st.builds(ImageContent, uris, st.none() | texts),
    st.builds(FileContent, uris, st.none() | texts),
)
known: st.SearchStrategy[Content] = spoken | calls | results
parts: st.SearchStrategy[Content] = known | unknown

properties = st.none() | json_objects
roles = st.sampled_from(sorted(ROLES))


def messages_of(
    role: st.SearchStrategy[Any], content: st.SearchStrategy[Content], *, about: st.SearchStrategy[Any] | None = None
) -> st.SearchStrategy[ChatMessage]:
    """Messages of these roles and contents; `about` gives their properties."""
    return st.builds(
        ChatMessage,
        role,
        st.lists(content, max_size=4),
        author_name=st.none() | names,
        message_id=st.none() | names,
        additional_properties=st.none() if about is None else about,
    )


# Any message at all.
any_message = messages_of(roles, parts, about=properties)

# Any message as far as pairs are concerned, and messages in which each kind of content stands where services put it.
FUTURE = UnknownContent("future", b'{"type":"future"}')
tangled_message = messages_of(roles, known | st.just(FUTURE))
plain_message = st.one_of(
    messages_of(st.sampled_from(("user", "system")), st.builds(TextContent, texts)),
    messages_of(st.just("assistant"), spoken | calls),
    messages_of(st.just("tool"), results),
)
# What an agent says: the assistant's and the tools' messages, and whatever else may have got among them.
output_message = st.one_of(
    messages_of(st.just("assistant"), spoken | calls), messages_of(st.just("tool"), results), tangled_message
)
