"""MCP extra: the boundary to what needs the `mcp` package, which is an extra of ours and takes a second to import.

Rule of this file: whoever comes without the package learns how to get it.
"""

from __future__ import annotations

from types import ModuleType

from holdfast.conversation.errors import ConfigurationError


def links() -> ModuleType:
    """The module that speaks with servers. Raises ConfigurationError if the package is missing."""
    try:
        # A lazy boundary (ARCHITECTURE.md).
        from holdfast.tools import mcp_links
    except ImportError as error:
        raise _missing(error) from error
    return mcp_links


def serving() -> ModuleType:
    """The module that offers an agent to clients. Raises ConfigurationError if the package is missing."""
    try:
        # A lazy boundary, as above.
        from holdfast.tools import mcp_serving
    except ImportError as error:
        raise _missing(error) from error
    return mcp_serving


def _missing(error: ImportError) -> ConfigurationError:
    return ConfigurationError(f"MCP needs the package mcp in version 2: pip install 'holdfast[mcp]' ({error}).")
