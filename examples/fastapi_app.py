"""A chat server with FastAPI: one thread per user, answers whole or streamed, errors as HTTP statuses.

    pip install holdfast fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app

It talks with the offline partner, which is no language model and needs no key. For a model, put
`OpenAIChatClient("gpt-4o-mini")` where `OfflineChatClient` stands. docs/fastapi.md walks through this file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Message, Send

from holdfast import (
    AgentRunStream,
    AgentThread,
    CallerError,
    ConfigurationError,
    ContentFilteredError,
    ContextTooLongError,
    HoldfastError,
    InvalidInputError,
    OfflineChatClient,
    RateLimitError,
    RunTimeoutError,
    ServiceError,
    ServiceUnavailableError,
    StaleRunError,
    StoreError,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadExistsError,
    ThreadNotFoundError,
    Turn,
    TurnNotFoundError,
    open_store,
)

log = logging.getLogger("chat")

# Made once, used by all requests. Nothing is opened before it is needed, and the store closes itself at the end.
store = open_store(os.environ.get("CHAT_STORE", "sqlite:///chats.db"))
agent = OfflineChatClient(delay=0.05).create_agent(
    instructions="You are good at telling jokes.", name="Joker", timeout=120
)

app = FastAPI(title="Chat")


# --- who asks, and which thread is theirs ------------------------------------------------------------------------


async def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """A PLACEHOLDER, not authentication: it believes the header. Check a session or a token here."""
    if not x_user:
        raise HTTPException(401, "Say who you are in the X-User header.")
    return x_user


async def users_thread(user: Annotated[str, Depends(current_user)]) -> AgentThread:
    """The user's own thread. Each user is a tenant of the store: no id leads from one tenant to another's threads."""
    return AgentThread(store.for_tenant(user), "chat", intent="either")


UsersThread = Annotated[AgentThread, Depends(users_thread)]


class Said(BaseModel):
    """What a user says. `on_conflict` is for a thread that is still busy: wait ("enqueue"), or a 409 ("reject")."""

    text: str = Field(max_length=16_000)
    on_conflict: Literal["enqueue", "reject"] = "enqueue"


# --- a whole answer ----------------------------------------------------------------------------------------------


@app.post("/chat")
async def chat(said: Said, thread: UsersThread) -> dict[str, str]:
    response = await agent.run(said.text, thread=thread, on_conflict=said.on_conflict)
    return {"turn": response.turn_id, "answer": response.text}


# --- a streamed answer -------------------------------------------------------------------------------------------


async def users_stream(said: Said, thread: UsersThread) -> AsyncIterator[AgentRunStream]:
    """A run for as long as somebody listens: FastAPI comes back here when the response is over, however it ended."""
    async with agent.run_stream(said.text, thread=thread, on_conflict=said.on_conflict) as stream:
        yield stream


class EventStream(StreamingResponse):
    """Server-sent events. The status waits for the first event, so that an error before it has its own status."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        held: list[Message] = []

        async def send_late(message: Message) -> None:
            if message["type"] == "http.response.start":
                held.append(message)
                return
            while held:
                await send(held.pop())
            await send(message)

        await super().stream_response(send_late)


@app.post("/chat/stream", response_class=EventStream)
async def chat_stream(stream: Annotated[AgentRunStream, Depends(users_stream)]) -> EventStream:
    return EventStream(events(stream), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


async def events(stream: AgentRunStream) -> AsyncIterator[str]:
    begun = False
    try:
        async for update in stream:
            if update.text:
                yield event("text", {"text": update.text})
                begun = True
                await asyncio.sleep(0)  # so that a reader who left is noticed also while pieces come without a pause
        response = await stream.response()
    except HoldfastError as error:
        if not begun:
            raise  # nothing was sent yet: it becomes a status
        log_if_ours(error)
        yield event("error", told(error))
    else:
        yield event("end", {"turn": response.turn_id, "answer": response.text})


def event(kind: str, data: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


# --- what was said -----------------------------------------------------------------------------------------------


@app.get("/history")
async def history(thread: UsersThread, last: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[dict[str, str]]:
    return [shown(turn) for turn in await thread.turns(last=last)]


@app.delete("/history", status_code=204)
async def forget(thread: UsersThread) -> None:
    """All of it, and an answer that is still being made is not recorded either."""
    await thread.delete(interrupt=True)


def shown(turn: Turn) -> dict[str, str]:
    return {
        "turn": turn.id,
        "status": turn.status,
        "at": turn.started_at.isoformat(),
        "said": "".join(message.text for message in turn.input),
        "answer": "".join(message.text for message in turn.output if message.role == "assistant"),
    }


# --- errors ------------------------------------------------------------------------------------------------------

# Whose fault it is decides. The nearest class counts: what is not named here has the status of its branch.
STATUSES: dict[type[HoldfastError], int] = {
    CallerError: 400,
    InvalidInputError: 422,
    ThreadNotFoundError: 404,
    TurnNotFoundError: 404,
    ThreadExistsError: 409,
    ThreadBusyError: 409,
    ThreadDeletedError: 410,
    RunTimeoutError: 504,  # our timeout, not the user's
    ConfigurationError: 500,  # nor is this
    ServiceError: 502,
    RateLimitError: 429,
    ServiceUnavailableError: 503,
    ContextTooLongError: 413,  # the user can begin anew
    ContentFilteredError: 422,  # the user can say it in other words
    StoreError: 503,
    StaleRunError: 409,  # the thread was deleted or taken over meanwhile
}


def status_of(error: HoldfastError) -> int:
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def told(error: HoldfastError) -> dict[str, str]:
    """What a user is told. Messages are for whoever runs the server, unless they are about the user's own input."""
    found = {"error": error.code}
    if isinstance(error, InvalidInputError):
        found["detail"] = str(error)
    if error.response is not None:
        found["turn"] = error.response.turn_id
        found["answer"] = error.response.text
    return found


def log_if_ours(error: HoldfastError) -> None:
    if status_of(error) >= 500:
        log.error("%s: %s (thread %s, turn %s)", error.code, error, error.thread_id, error.turn_id)


@app.exception_handler(HoldfastError)
async def refuse(request: Request, error: HoldfastError) -> JSONResponse:
    log_if_ours(error)
    wait = error.retry_after if isinstance(error, ServiceError) else None
    headers = {"Retry-After": str(math.ceil(wait))} if wait is not None else None
    return JSONResponse(told(error), status_of(error), headers)


@app.exception_handler(RequestValidationError)
async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
    """FastAPI's own answer repeats what was sent, which fails for half of a surrogate pair, and may be long."""
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return JSONResponse({"error": "InvalidInput", "detail": "; ".join(faults)}, 422)
