"""Tokens: bearer tokens that a credential hands out for a while, kept until shortly before they expire.

Rule of this file: the event loop never waits for a credential, however slow (a program that is started, a service
that is asked): one that is not async runs in a thread. A token is shown to nobody, and errors of a credential, which
may hold whole HTTP exchanges, are told in our own words and never chained.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import Struct

from holdfast.clients.endpoints import Secret, is_sendable, without_keys
from holdfast.clients.openai_errors import brief
from holdfast.conversation.errors import (
    AuthenticationError,
    ConfigurationError,
    ServiceError,
    ServiceUnavailableError,
)
from holdfast.ports.runtime import Runtime

_log = logging.getLogger("holdfast.clients")

# So long before its end a token is replaced, unless its credential names an earlier time.
_AHEAD = 300.0
# So long before its end it is not sent any more: the request has a way to go.
_LAST_MOMENT = 30.0
# So long to wait after a credential failed, while the token at hand is still good.
_NEXT_TRY = 30.0
# What azure-core raises if it cannot reach whom it asks. The network may come back; a wrong credential stays wrong.
_OUT_OF_REACH = frozenset(("ServiceRequestError", "ServiceResponseError"))

Ask = Callable[[], Any]


class Token(Struct, frozen=True):
    """A token, and when (in seconds since 1970) another one should, and must, take its place."""

    secret: Secret
    refresh_at: float = 0.0
    expires_at: float = 0.0


class _NoToken(Struct, frozen=True):
    """What came instead of a token. Everybody who waited gets an error of his own, for the engine writes into it."""

    kind: type[ServiceError]
    words: str


class _Request(Struct):
    """One question to the credential, and how many wait for its answer."""

    task: asyncio.Task[Token | _NoToken]
    waiting: int = 0


class Tokens:
    """The tokens of one credential, for any event loop and thread.

    `ask` gives a token when it is called: a string, which is asked for anew each time, or an object with `token` and
    `expires_on` (and perhaps `refresh_on`), which is kept. It may be async. `name` is its name in errors, `advice`
    what to do if it fails.
    """

    __slots__ = ("_advice", "_ask", "_earlier", "_name", "_requests", "_runtime", "_service", "current")

    def __init__(self, ask: Ask, name: str, advice: str, *, service: str, runtime: Runtime) -> None:
        self._ask = ask
        self._name = name
        self._advice = advice
        self._service = service
        self._runtime = runtime
        self._requests: dict[asyncio.AbstractEventLoop, _Request] = {}
        self._earlier: Token | None = None
        self.current: Token | None = None  # what was handed out last

    def secrets(self) -> tuple[Secret, ...]:
        """What no error may show: this token, and the one before, of which an answer may still speak."""
        return tuple(token.secret for token in (self.current, self._earlier) if token is not None)

    async def ready(self) -> Token:
        """A token that is good for now.

        Raises AuthenticationError if the credential gives none, ServiceUnavailableError if it reaches nobody.
        """
        token = self.current
        now = self._runtime.now_us() / 1e6
        if token is not None and now < token.refresh_at:
            return token
        good = token is not None and now < token.expires_at - _LAST_MOMENT
        loop = asyncio.get_running_loop()
        request = self._requests.get(loop)
        if request is None or request.task.done():
            request = self._request(loop)
        elif good and token is not None:
            return token  # somebody is seeing to the next one already
        found = await self._answer(request)
        if isinstance(found, Token):
            return found
        if not good or token is None:
            raise found.kind(found.words, service=self._service)
        _log.warning("%s: the token could not be renewed and is used on. %s", self._service, found.words)
        if self.current is token:
            self.current = Token(token.secret, now + _NEXT_TRY, token.expires_at)
        return token

    async def after(self, refused: Token) -> Token:
        """A token that was asked for after the service had refused this one; it may be the same. Raises as `ready`."""
        if self.current is not None and self.current.secret == refused.secret:
            self._earlier, self.current = self.current, None
        return await self.ready()

    def _request(self, loop: asyncio.AbstractEventLoop) -> _Request:
        for other in [known for known in list(self._requests) if known.is_closed()]:
            self._requests.pop(other, None)
        request = _Request(loop.create_task(self._fetch()))
        self._requests[loop] = request
        return request

    async def _answer(self, request: _Request) -> Token | _NoToken:
        """Wait with all who wait. Who leaves does not disturb the others; the last one to leave ends the question."""
        request.waiting += 1
        try:
            await asyncio.wait((request.task,))
        finally:
            request.waiting -= 1
            if not request.waiting and not request.task.done():
                self._requests.pop(asyncio.get_running_loop(), None)
                request.task.cancel()
        if request.task.cancelled():
            return _NoToken(ServiceUnavailableError, f"{self._name} was interrupted. Try again.")
        return request.task.result()

    async def _fetch(self) -> Token | _NoToken:
        try:
            given = await (self._ask() if inspect.iscoroutinefunction(self._ask) else _in_a_thread(self._ask))
            if inspect.isawaitable(given):
                given = await given
        except Exception as error:
            names = {kind.__name__ for kind in type(error).__mro__}
            passing = isinstance(error, OSError) or bool(names & _OUT_OF_REACH)
            words = brief(without_keys(str(error)))
            told = f"{self._name} gave no token ({type(error).__name__}{': ' + words if words else ''}). {self._advice}"
            return _NoToken(ServiceUnavailableError if passing else AuthenticationError, told)
        token = self._token(given)
        if token is None:
            return _NoToken(AuthenticationError, f"{self._name} gave something that is no token. {self._advice}")
        if self.current is not None and self.current.secret != token.secret:
            self._earlier = self.current
        self.current = token
        return token

    def _token(self, given: Any) -> Token | None:
        text = getattr(given, "token", given)
        if not isinstance(text, str) or not is_sendable(text):
            return None
        ends = getattr(given, "expires_on", None)
        if not isinstance(ends, (int, float)):
            return Token(Secret(text))  # it says not for how long: the next request asks for another
        now = self._runtime.now_us() / 1e6
        # One that was not made for long is used for half of its time: else every request would ask for another.
        renewed = ends - max(0.0, min(_AHEAD, (ends - now) / 2))
        wished = getattr(given, "refresh_on", None)
        if isinstance(wished, (int, float)) and now < wished < renewed:
            renewed = wished
        return Token(Secret(text), renewed, ends)


def tokens_of(credential: object, scope: str, *, service: str, runtime: Runtime) -> Tokens:
    """The tokens of a credential of azure-identity, or of anything with its `get_token` or `get_token_info`.

    Raises ConfigurationError for anything else.
    """
    # The newer of the two tells when the token should be renewed.
    get = getattr(credential, "get_token_info", None) or getattr(credential, "get_token", None)
    kind = type(credential).__name__
    if not callable(get):
        raise ConfigurationError(
            f"credential= takes a credential of azure-identity, such as AzureCliCredential(); got {kind}. "
            "A key is passed as api_key=, a token as ad_token=, a function that gives one as ad_token_provider=."
        )

    async def ask_async() -> Any:
        return await get(scope)

    def ask() -> Any:
        return get(scope)

    advice = "Sign in again (for the Azure CLI: az login), or pass another credential."
    chosen = ask_async if inspect.iscoroutinefunction(get) else ask
    return Tokens(chosen, kind, advice, service=service, runtime=runtime)


async def _in_a_thread(call: Ask) -> Any:
    """What a call gives that may take long.

    The thread is nobody's: neither the end of the loop nor that of the program waits for it, and it takes no place
    among the threads of `asyncio.to_thread`, which may all be busy.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def finish(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            done.set_exception(error)
        else:
            done.set_exception(RuntimeError(type(error).__name__))

    def work() -> None:
        result, failure = None, None
        try:
            result = context.run(call)
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=work, name="holdfast-credential", daemon=True).start()
    return await done
