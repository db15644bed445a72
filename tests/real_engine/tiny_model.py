"""A tiny language model with random weights, written as the GGUF file that llama.cpp reads.

It knows nothing and says nonsense, but whatever serves it is the real thing: tokens, prompts made from a chat
template, a prefix cache, a context that can be full, a grammar for tool calls. Needs the standard library alone.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Iterator
from math import prod
from pathlib import Path

NAME = "random-tiny"

# --- the vocabulary: what is special, every byte, and the beginnings of some words, letter by letter ---------------

END_OF_TEXT, TURN_BEGINS, TURN_ENDS, CALL_BEGINS = range(4)
# llama.cpp knows this kind of tool call by the words of the template; its grammar waits for the last of these as ONE
# token, the end of the line included.
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>\n"]
_SPACE = "\u0120"  # how byte-level BPE writes a space
_SAYING = "the user asked an agent about weather in Paris and it answered with short sentences hello tool call result"
_WORDS = _SAYING.split()
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def _bytes_as_letters() -> list[str]:
    """How GPT-2 writes each byte: what can be seen as itself, the rest moved to where it can be seen."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in seen else next(moved)) for byte in range(256)]


def _merges() -> list[tuple[str, str]]:
    """A word is put together from its space on: whatever else a text holds, its words become the same tokens."""
    found: dict[tuple[str, str], None] = {}
    for word in _WORDS:
        for end, letter in enumerate(word):
            found[_SPACE + word[:end], letter] = None
    return list(found)


_MERGES = _merges()
_TOKENS = [*_SPECIAL, *_bytes_as_letters(), *["".join(pair) for pair in _MERGES]]
# Whole words. An answer made of these alone is the same tokens when it comes back as part of the next question.
WORD_TOKENS = [_TOKENS.index(_SPACE + word) for word in _WORDS]
WHITESPACE_TOKENS = [_TOKENS.index(_bytes_as_letters()[byte]) for byte in b"\t\n "]

# How messages become a prompt. llama.cpp recognises what tool calls look like by rendering some of its own.
_TEMPLATE = """\
{%- if messages[0].role == 'system' or tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}{% if tools %}# Tools

You may call one or more functions.
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>

For each function call, return a json object within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>{% endif %}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}<|im_start|>assistant
{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif m.role == 'user' or not loop.first %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# --- the network: llama's architecture, as small as it gets --------------------------------------------------------

_WIDTH, _LAYERS, _HEADS, _KV_HEADS, _INNER = 64, 2, 4, 2, 128
_KV_WIDTH = _WIDTH // _HEADS * _KV_HEADS
_TRAINED_FOR = 8192


def _tensors() -> Iterator[tuple[str, tuple[int, ...], float]]:
    """(name, shape with the innermost dimension first, how far the weights spread; 0: all of them are 1)."""
    yield "token_embd.weight", (_WIDTH, len(_TOKENS)), 0.5
    for n in range(_LAYERS):
        yield f"blk.{n}.attn_norm.weight", (_WIDTH,), 0
        yield f"blk.{n}.attn_q.weight", (_WIDTH, _WIDTH), 0.08
        yield f"blk.{n}.attn_k.weight", (_WIDTH, _KV_WIDTH), 0.08
        yield f"blk.{n}.attn_v.weight", (_WIDTH, _KV_WIDTH), 0.08
        yield f"blk.{n}.attn_output.weight", (_WIDTH, _WIDTH), 0.08
        yield f"blk.{n}.ffn_norm.weight", (_WIDTH,), 0
        yield f"blk.{n}.ffn_gate.weight", (_WIDTH, _INNER), 0.08
        yield f"blk.{n}.ffn_up.weight", (_WIDTH, _INNER), 0.08
        yield f"blk.{n}.ffn_down.weight", (_INNER, _WIDTH), 0.08
    yield "output_norm.weight", (_WIDTH,), 0
    yield "output.weight", (_WIDTH, len(_TOKENS)), 0.5


# --- the file ------------------------------------------------------------------------------------------------------

_VERSION, _ALIGNMENT = 3, 32
_F32 = 0
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def _string(text: str) -> bytes:
    told = text.encode()
    return struct.pack("<Q", len(told)) + told


def _value(value: object) -> bytes:
    """The kind and the value of a piece of metadata."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    assert isinstance(value, list)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _INT32, len(value), *value)


def _metadata() -> dict[str, object]:
    kinds = [_CONTROL] * len(_SPECIAL) + [_NORMAL] * (len(_TOKENS) - len(_SPECIAL))
    kinds[CALL_BEGINS] = _USER_DEFINED
    return {
        "general.architecture": "llama",
        "general.name": NAME,
        "llama.context_length": _TRAINED_FOR,
        "llama.embedding_length": _WIDTH,
        "llama.block_count": _LAYERS,
        "llama.feed_forward_length": _INNER,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": _KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _WIDTH // _HEADS,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(_TOKENS),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": _TOKENS,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _MERGES],
        "tokenizer.ggml.bos_token_id": END_OF_TEXT,
        "tokenizer.ggml.eos_token_id": TURN_ENDS,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": _TEMPLATE,
    }


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)


def write_model(path: Path, seed: int = 7) -> None:
    """Write the model. The same seed gives the same file."""
    chance = random.Random(seed)
    metadata = _metadata()
    listed = bytearray()
    weights = bytearray()
    tensors = list(_tensors())
    for name, shape, spread in tensors:
        listed += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _F32, len(weights))
        numbers = array("f", [chance.gauss(0, spread) if spread else 1.0 for _ in range(prod(shape))])
        weights += numbers.tobytes()
        weights += _padding(len(weights))
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items()) + listed
    path.write_bytes(head + _padding(len(head)) + weights)
