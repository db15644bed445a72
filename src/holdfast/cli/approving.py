"""Approving: calls that wait to be allowed, asked about at the prompt.

Rule of this file: nothing is allowed but by somebody who was shown all of it and said yes. Whatever else happens (no
answer, no terminal, Ctrl-C), the call goes on waiting.
"""

from __future__ import annotations

import getpass
import shlex

from holdfast.cli.calls import request_line, request_lines
from holdfast.cli.prompt import Prompt
from holdfast.cli.session import Session
from holdfast.conversation.approvals import ApprovalAnswer, ApprovalRequest
from holdfast.ports.runtime import SYSTEM

_QUESTION = "Allow it? y(es), n(o), n and why, l(ater): "
_HINT = "y makes this call, once; n, or n and why, has the model do without it; l leaves it waiting."


class _Later(Exception):
    """Somebody will say so another time."""


def settle(session: Session, prompt: Prompt) -> bool:
    """Ask about each call that waits on the thread, and go on with the answers; False if that failed.

    Each answer counts at once, so that whoever is called away has decided what was decided.
    """
    if not session.screen.is_person:
        _tell_that_it_waits(session)
        return True
    fine, later = True, set[tuple[str, str]]()
    while request := _next(session, later):
        try:
            answer = _asked(session, prompt, request)
        except _Later:
            later.add((request.turn_id, request.call_id))
            continue
        except (EOFError, KeyboardInterrupt) as end:
            session.screen.leave_prompt(ended=isinstance(end, EOFError))
            later.add((request.turn_id, request.call_id))
            break
        fine = session.answer(answer) and fine
    if later:
        session.screen.note("It waits, here and for other programs. /approvals asks again; a message gives it up.")
    return fine


def _next(session: Session, later: set[tuple[str, str]]) -> ApprovalRequest | None:
    left = (request for request in session.waiting() if (request.turn_id, request.call_id) not in later)
    return next(left, None)


def _asked(session: Session, prompt: Prompt, request: ApprovalRequest) -> ApprovalAnswer:
    """Somebody's word on a call. Raises _Later, and what the prompt raises.

    Nobody is asked about a tool that this chat has not: allowed, the call would be used up and come to nothing.
    """
    first, *rest = request_lines(request)
    session.screen.gap()
    session.screen.line(session.screen.paint.warning(first))
    for line in rest:
        session.screen.line(line)
    if request.tool not in session.tools.by_name and not session.tools.sources:
        session.screen.warn(f"This chat has no tool {request.tool!r}: start it with --tools to answer.")
        raise _Later
    while True:
        said, _, why = prompt.ask(_QUESTION).strip().partition(" ")
        said = said.lower().rstrip(",:")
        if said in ("y", "yes") and not why:
            if request.expires_us is None or SYSTEM.now_us() < request.expires_us:
                return request.approve(by=_user())
            session.screen.warn("It is too late to allow it. n, or n and why, goes on without it.")
            continue
        if said in ("n", "no"):
            return request.reject(why.strip().encode("utf-8", "replace").decode(), by=_user())
        if said in ("l", "later"):
            raise _Later
        session.screen.note(_HINT)


def _tell_that_it_waits(session: Session) -> None:
    """Without a terminal nobody is asked."""
    requests = session.waiting()
    for request in requests:
        session.screen.note(f"{request_line(request)} waits to be allowed.")
    if requests:
        go_on = f"holdfast chat --thread {shlex.quote(session.thread.id)}"
        session.screen.note(f"{go_on}, with the same --store and --tools, asks at a terminal.")


def _user() -> str:
    """Whose word it is: whoever this program runs for."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in this container
        return ""
