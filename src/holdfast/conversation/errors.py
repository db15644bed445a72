"""Every error that holdfast raises, in one tree. The branch says whose fault it is.

    HoldfastError
      CallerError                 the code that called us can mend it
        InvalidInputError           what was passed makes no sense (also a ValueError)
          InputTooLargeError          the input is larger than the agent's limits allow
        ConfigurationError          a key, a model or an address is missing or malformed
        ThreadNotFoundError         no thread of that id (also a LookupError)
        ThreadExistsError           a new thread was asked for under an id that is taken
        ThreadDeletedError          this handle's thread was deleted meanwhile
        TurnNotFoundError           no such turn on this thread's own history (also a LookupError)
        ThreadBusyError             another run has the thread
          QueueFullError              too many runs wait for it already
        IdempotencyKeyError         the key was used with another input, or its turn never became a whole answer
        ApprovalError               this answer to an approval request counts for nothing
        RunCancelledError           somebody else ended this run: thread.cancel(), or a run that interrupts
        RunTimeoutError             the run took longer than its timeout (also a TimeoutError)
      ServiceError                the chat service refused, failed or could not be reached
        AuthenticationError         the key is wrong or lacks a right
        RateLimitError              too many requests, or the quota is used up
        ContextTooLongError         the conversation is longer than the model can read
        ContentFilteredError        a content filter refused the input
        BadRequestError             the service does not accept the request
        ServiceUnavailableError     down, overloaded, unreachable or cut off
        ServiceProtocolError        the service answered something that is no answer
        AnswerFormatError           the answer is not in the form that was asked for
        AnswerTooLargeError         the answer, or the turn, is larger than the agent's limits allow
      StoreError                  the place where threads are kept failed
        StoreUnavailableError       cannot be opened, read or written now
          StoreBusyError              another process holds the database's write lock
        StoreFullError              no room left on the device
        StoreReadOnlyError          the database may not be written
        NotADatabaseError           the file is not a holdfast database
        SchemaVersionError          the database or a record was written by a newer holdfast
        DamagedError                stored bytes are not what was written
        StaleRunError               another writer has the thread now; this run goes no further

A message says what happened, on which thread or turn, and what to do now.
"""

from __future__ import annotations

from typing import Any


class HoldfastError(Exception):
    """What all our errors have in common.

    `turn_id` and `thread_id` name the turn and thread concerned, where there are any; `response` holds what
    there was of the answer when a run failed (an `AgentRunResponse`), else None.
    """

    def __init__(self, message: str, *, thread_id: str | None = None, turn_id: str | None = None) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.turn_id = turn_id
        self.response: Any = None

    @property
    def code(self) -> str:
        """A stable name for logs and stored turns: the class name without its ending."""
        return type(self).__name__.removesuffix("Error")


class CallerError(HoldfastError):
    """The calling code can mend it."""


class InvalidInputError(CallerError, ValueError):
    """What was passed makes no sense; nothing was sent and nothing was stored."""


class InputTooLargeError(InvalidInputError):
    """The input is larger than the agent's limits allow; nothing was sent and nothing was stored."""


class ConfigurationError(CallerError):
    """A key, a model name or an address is missing or malformed."""


class ThreadNotFoundError(CallerError, LookupError):
    """There is no thread of that id in the store."""


class ThreadExistsError(CallerError):
    """A new thread was asked for under an id that is taken."""


class ThreadDeletedError(CallerError):
    """The thread that this handle stands for was deleted."""


class TurnNotFoundError(CallerError, LookupError):
    """The thread's own history has no such turn."""


class ThreadBusyError(CallerError):
    """Another run has the thread."""


class QueueFullError(ThreadBusyError):
    """So many runs wait for the thread that no other may."""


class IdempotencyKeyError(CallerError):
    """The idempotency key stands for another input, or for a turn that never became a whole answer.

    `turn_id` names the turn under the key; `response` holds what there is of its answer.
    """


class ApprovalError(CallerError):
    """An answer to an approval request counts for nothing: it was used, has expired, or is about something else."""


class RunCancelledError(CallerError):
    """Somebody else ended this run: `thread.cancel()`, or a run with on_conflict="interrupt" or "rollback".

    What had been read of the answer is in `response`, and in the log.
    """


class RunTimeoutError(CallerError, TimeoutError):
    """The run took longer than the timeout that the caller set."""


class ServiceError(HoldfastError):
    """The chat service refused, failed or could not be reached.

    `service` is the client's name for it, `status` the HTTP status (None if there was no answer),
    `request_id` the service's own id of the request, `service_code` its error code, `retry_after` the
    seconds it asked us to wait. The message never holds a key.
    """

    def __init__(
        self,
        message: str,
        *,
        service: str = "",
        status: int | None = None,
        request_id: str | None = None,
        service_code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        facts = [f"service {service}" if service else "", f"status {status}" if status else ""]
        facts.append(f"request {request_id}" if request_id else "")
        told = ", ".join(fact for fact in facts if fact)
        super().__init__(f"{message} ({told})" if told else message)
        self.service = service
        self.status = status
        self.request_id = request_id
        self.service_code = service_code
        self.retry_after = retry_after


class AuthenticationError(ServiceError):
    """The service does not accept the credential."""


class RateLimitError(ServiceError):
    """Too many requests or tokens for now, or the quota is used up."""


class ContextTooLongError(ServiceError):
    """The conversation is longer than the model can read."""


class ContentFilteredError(ServiceError):
    """The service's content filter refused the input."""


class BadRequestError(ServiceError):
    """The service does not accept the request as it is; sending it again will not help."""


class ServiceUnavailableError(ServiceError):
    """The service is down, overloaded, unreachable, or was cut off in the middle of an answer."""


class ServiceProtocolError(ServiceError):
    """The service answered something that is no answer of its protocol."""


class AnswerFormatError(ServiceError):
    """The answer is not in the form that was asked for, also after it was asked for again; it is in `.response`."""


class AnswerTooLargeError(ServiceError):
    """The answer, or all of the turn, is larger than the agent's limits allow; what came before is in the log."""


class StoreError(HoldfastError):
    """The place where threads are kept failed."""


class StoreUnavailableError(StoreError):
    """The store cannot be opened, read or written now."""


class StoreBusyError(StoreUnavailableError):
    """Another process has held the database's write lock for too long."""


class StoreFullError(StoreError):
    """There is no room left where the store writes."""


class StoreReadOnlyError(StoreError):
    """The database may not be written."""


class NotADatabaseError(StoreError):
    """The file is not a holdfast database."""


class SchemaVersionError(StoreError):
    """The database, or a record in it, was written by a newer version of holdfast."""


class DamagedError(StoreError):
    """Stored bytes are not what was written; they are never sent to a model."""


class StaleRunError(StoreError):
    """Another writer has the thread now: it was taken over, deleted, or this run's stream was not read for long.

    The message says what of the run is in the log; `response` holds what there is of the answer.
    """
