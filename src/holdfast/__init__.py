"""holdfast: multi-turn conversations with AI agents that cannot break.

    from holdfast import OfflineChatClient, SQLiteStore

    agent = OfflineChatClient().create_agent(name="Joker", thread_store=SQLiteStore("chats.db"))
    thread = agent.get_new_thread()
    result = await agent.run("Tell me a joke about a pirate.", thread=thread)

This is the front door: the public names, imported when they are first asked for. The folders below it are the
floors of the house (ARCHITECTURE.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A lazy boundary (ARCHITECTURE.md): where each public name lives.
_HOMES: dict[str, tuple[str, ...]] = {
    "holdfast.engine.agents": ("ChatAgent",),
    "holdfast.engine.threads": (
        "AddedMessages",
        "AgentThread",
        "Branch",
    ),
    "holdfast.engine.responses": ("AgentRunResponse",),
    "holdfast.engine.streams": ("AgentRunStream",),
    "holdfast.engine.sync": ("run_sync",),
    "holdfast.clients.openai_chat": ("OpenAIChatClient",),
    "holdfast.clients.azure_openai": ("AzureOpenAIChatClient",),
    "holdfast.clients.anthropic": ("AnthropicChatClient",),
    "holdfast.clients.offline": ("OfflineChatClient",),
    "holdfast.stores.memory": ("MemoryStore",),
    "holdfast.stores.sqlite": ("SQLiteStore",),
    "holdfast.settings": ("open_store",),
    "holdfast.ports.clients": (
        "ChatClient",
        "ChatOptions",
    ),
    "holdfast.ports.stores": (
        "ThreadInfo",
        "ThreadPage",
        "ThreadStore",
    ),
    "holdfast.ports.verification": (
        "Backup",
        "Damage",
        "Verification",
    ),
    "holdfast.conversation.messages": (
        "ChatMessage",
        "FileContent",
        "ImageContent",
        "ReasoningContent",
        "RefusalContent",
        "TextContent",
        "ToolCallContent",
        "ToolResultContent",
        "UnknownContent",
    ),
    "holdfast.conversation.turns": (
        "Turn",
        "TurnError",
    ),
    "holdfast.conversation.cursors": (
        "EndUpdate",
        "RestartUpdate",
    ),
    "holdfast.engine.limits": ("Limits",),
    "holdfast.engine.following": ("TurnFollower",),
    "holdfast.conversation.updates": (
        "AgentRunResponseUpdate",
        "FinishUpdate",
        "ReasoningUpdate",
        "RefusalUpdate",
        "ToolCallUpdate",
        "ToolResultUpdate",
        "Usage",
        "UsageUpdate",
    ),
    "holdfast.conversation.errors": (
        "AnswerFormatError",
        "AnswerTooLargeError",
        "ApprovalError",
        "AuthenticationError",
        "BadRequestError",
        "CallerError",
        "ConfigurationError",
        "ContentFilteredError",
        "ContextTooLongError",
        "DamagedError",
        "HoldfastError",
        "IdempotencyKeyError",
        "InputTooLargeError",
        "InvalidInputError",
        "NotADatabaseError",
        "QueueFullError",
        "RateLimitError",
        "RunCancelledError",
        "RunTimeoutError",
        "SchemaVersionError",
        "ServiceError",
        "ServiceProtocolError",
        "ServiceUnavailableError",
        "StaleRunError",
        "StoreBusyError",
        "StoreError",
        "StoreFullError",
        "StoreReadOnlyError",
        "StoreUnavailableError",
        "ThreadBusyError",
        "ThreadDeletedError",
        "ThreadExistsError",
        "ThreadNotFoundError",
        "TurnNotFoundError",
    ),
    "holdfast.conversation.approvals": (
        "ApprovalAnswer",
        "ApprovalRequest",
        "ApprovalUpdate",
    ),
    "holdfast.ports.tools": (
        "Tool",
        "ToolContext",
        "ToolError",
        "ToolSpec",
    ),
    "holdfast.tools.functions": (
        "FunctionTool",
        "tool",
    ),
    "holdfast.tools.mcp": ("MCPServer",),
    "holdfast.engine.middleware": (
        "ModelCallContext",
        "RunContext",
        "ToolCallContext",
    ),
    "holdfast.engine.providers": (
        "ContextProvider",
        "TurnContext",
    ),
    "holdfast.engine.views": (
        "LastTurns",
        "TokenBudget",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from holdfast.clients.anthropic import AnthropicChatClient as AnthropicChatClient
    from holdfast.clients.azure_openai import AzureOpenAIChatClient as AzureOpenAIChatClient
    from holdfast.clients.offline import OfflineChatClient as OfflineChatClient
    from holdfast.clients.openai_chat import OpenAIChatClient as OpenAIChatClient
    from holdfast.conversation.approvals import ApprovalAnswer as ApprovalAnswer
    from holdfast.conversation.approvals import ApprovalRequest as ApprovalRequest
    from holdfast.conversation.approvals import ApprovalUpdate as ApprovalUpdate
    from holdfast.conversation.cursors import EndUpdate as EndUpdate
    from holdfast.conversation.cursors import RestartUpdate as RestartUpdate
    from holdfast.conversation.errors import AnswerFormatError as AnswerFormatError
    from holdfast.conversation.errors import AnswerTooLargeError as AnswerTooLargeError
    from holdfast.conversation.errors import ApprovalError as ApprovalError
    from holdfast.conversation.errors import AuthenticationError as AuthenticationError
    from holdfast.conversation.errors import BadRequestError as BadRequestError
    from holdfast.conversation.errors import CallerError as CallerError
    from holdfast.conversation.errors import ConfigurationError as ConfigurationError
    from holdfast.conversation.errors import ContentFilteredError as ContentFilteredError
    from holdfast.conversation.errors import ContextTooLongError as ContextTooLongError
    from holdfast.conversation.errors import DamagedError as DamagedError
    from holdfast.conversation.errors import HoldfastError as HoldfastError
    from holdfast.conversation.errors import IdempotencyKeyError as IdempotencyKeyError
    from holdfast.conversation.errors import InputTooLargeError as InputTooLargeError
    from holdfast.conversation.errors import InvalidInputError as InvalidInputError
    from holdfast.conversation.errors import NotADatabaseError as NotADatabaseError
    from holdfast.conversation.errors import QueueFullError as QueueFullError
    from holdfast.conversation.errors import RateLimitError as RateLimitError
    from holdfast.conversation.errors import RunCancelledError as RunCancelledError
    from holdfast.conversation.errors import RunTimeoutError as RunTimeoutError
    from holdfast.conversation.errors import SchemaVersionError as SchemaVersionError
    from holdfast.conversation.errors import ServiceError as ServiceError
    from holdfast.conversation.errors import ServiceProtocolError as ServiceProtocolError
    from holdfast.conversation.errors import ServiceUnavailableError as ServiceUnavailableError
    from holdfast.conversation.errors import StaleRunError as StaleRunError
    from holdfast.conversation.errors import StoreBusyError as StoreBusyError
    from holdfast.conversation.errors import StoreError as StoreError
    from holdfast.conversation.errors import StoreFullError as StoreFullError
    from holdfast.conversation.errors import StoreReadOnlyError as StoreReadOnlyError
    from holdfast.conversation.errors import StoreUnavailableError as StoreUnavailableError
    from holdfast.conversation.errors import ThreadBusyError as ThreadBusyError
    from holdfast.conversation.errors import ThreadDeletedError as ThreadDeletedError
    from holdfast.conversation.errors import ThreadExistsError as ThreadExistsError
    from holdfast.conversation.errors import ThreadNotFoundError as ThreadNotFoundError
    from holdfast.conversation.errors import TurnNotFoundError as TurnNotFoundError
    from holdfast.conversation.messages import ChatMessage as ChatMessage
    from holdfast.conversation.messages import FileContent as FileContent
    from holdfast.conversation.messages import ImageContent as ImageContent
    from holdfast.conversation.messages import ReasoningContent as ReasoningContent
    from holdfast.conversation.messages import RefusalContent as RefusalContent
    from holdfast.conversation.messages import TextContent as TextContent
    from holdfast.conversation.messages import ToolCallContent as ToolCallContent
    from holdfast.conversation.messages import ToolResultContent as ToolResultContent
    from holdfast.conversation.messages import UnknownContent as UnknownContent
    from holdfast.conversation.turns import Turn as Turn
    from holdfast.conversation.turns import TurnError as TurnError
    from holdfast.conversation.updates import AgentRunResponseUpdate as AgentRunResponseUpdate
    from holdfast.conversation.updates import FinishUpdate as FinishUpdate
    from holdfast.conversation.updates import ReasoningUpdate as ReasoningUpdate
    from holdfast.conversation.updates import RefusalUpdate as RefusalUpdate
    from holdfast.conversation.updates import ToolCallUpdate as ToolCallUpdate
    from holdfast.conversation.updates import ToolResultUpdate as ToolResultUpdate
    from holdfast.conversation.updates import Usage as Usage
    from holdfast.conversation.updates import UsageUpdate as UsageUpdate
    from holdfast.engine.agents import ChatAgent as ChatAgent
    from holdfast.engine.following import TurnFollower as TurnFollower
    from holdfast.engine.limits import Limits as Limits
    from holdfast.engine.middleware import ModelCallContext as ModelCallContext
    from holdfast.engine.middleware import RunContext as RunContext
    from holdfast.engine.middleware import ToolCallContext as ToolCallContext
    from holdfast.engine.providers import ContextProvider as ContextProvider
    from holdfast.engine.providers import TurnContext as TurnContext
    from holdfast.engine.responses import AgentRunResponse as AgentRunResponse
    from holdfast.engine.streams import AgentRunStream as AgentRunStream
    from holdfast.engine.sync import run_sync as run_sync
    from holdfast.engine.threads import AddedMessages as AddedMessages
    from holdfast.engine.threads import AgentThread as AgentThread
    from holdfast.engine.threads import Branch as Branch
    from holdfast.engine.views import LastTurns as LastTurns
    from holdfast.engine.views import TokenBudget as TokenBudget
    from holdfast.ports.clients import ChatClient as ChatClient
    from holdfast.ports.clients import ChatOptions as ChatOptions
    from holdfast.ports.stores import ThreadInfo as ThreadInfo
    from holdfast.ports.stores import ThreadPage as ThreadPage
    from holdfast.ports.stores import ThreadStore as ThreadStore
    from holdfast.ports.tools import Tool as Tool
    from holdfast.ports.tools import ToolContext as ToolContext
    from holdfast.ports.tools import ToolError as ToolError
    from holdfast.ports.tools import ToolSpec as ToolSpec
    from holdfast.ports.verification import Backup as Backup
    from holdfast.ports.verification import Damage as Damage
    from holdfast.ports.verification import Verification as Verification
    from holdfast.settings import open_store as open_store
    from holdfast.stores.memory import MemoryStore as MemoryStore
    from holdfast.stores.sqlite import SQLiteStore as SQLiteStore
    from holdfast.tools.functions import FunctionTool as FunctionTool
    from holdfast.tools.functions import tool as tool
    from holdfast.tools.mcp import MCPServer as MCPServer

__all__ = sorted(_HOME_OF)  # a test compares it with what can be imported


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"holdfast has no {name!r}")
    try:
        module = import_module(home)
    except AttributeError as error:  # else Python would say that holdfast has no such name
        raise ImportError(f"{name} cannot be used here: {home} failed to load ({error})") from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
