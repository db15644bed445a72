"""Ids: what may be the name of a thread, a turn or a tenant.

Rule of this file: an id is data. Any string that people can see and that every store and wire can hold is good;
what it looks like (a path, SQL, an emoji) never matters. Only what could not be told apart, shown or written as
UTF-8 is refused, by Unicode categories that no later version of Unicode gives to other characters.
"""

from __future__ import annotations

import unicodedata

from holdfast.conversation.errors import InvalidInputError

MAX_ID = 256

# Control characters, halves of surrogate pairs, line and paragraph separators. `str.isprintable` is not asked:
# it refuses joined emoji, and its answer for new characters changes with the version of Python.
_REFUSED = frozenset(("Cc", "Cs", "Zl", "Zp"))


def checked_thread_id(thread_id: object) -> str:
    """The id as it came. Raises InvalidInputError if it is no string of 1 to 256 printable characters."""
    return _checked(thread_id, "thread id")


def checked_turn_id(turn_id: object) -> str:
    """The id as it came. Raises InvalidInputError if it is no string of 1 to 256 printable characters."""
    return _checked(turn_id, "turn id")


def checked_tenant(tenant: object) -> str:
    """The tenant as it came; "" is the default one. Raises InvalidInputError for what no id could be."""
    return tenant if isinstance(tenant, str) and not tenant else _checked(tenant, "tenant")


def _checked(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"A {what} is a string; got {type(value).__name__}. Pass a string, such as 'chat-1'.")
    if not value:
        raise InvalidInputError(f"A {what} has at least one character; got ''. Pass a string, such as 'chat-1'.")
    if len(value) > MAX_ID:
        raise InvalidInputError(
            f"A {what} has at most {MAX_ID} characters; got {len(value)} ({value[:24]!r}...). "
            "Pass a shorter one, or a hash of it."
        )
    if value.isascii() and value.isprintable():
        return value
    for position, character in enumerate(value):
        if unicodedata.category(character) in _REFUSED:
            raise InvalidInputError(
                f"A {what} holds printable characters only; got {character!r} at position {position}. "
                "Leave that character out, or escape it."
            )
    return value
