"""MCP results: what a tool of an MCP server has answered, as the text that the model reads.

Rule of this file: no bytes of an image, a sound or a file get into the log; what they are, and how large, does.
"""

from __future__ import annotations

import json

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

Part = TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink


def text_of(result: CallToolResult) -> str:
    """The parts, a line for each; what is structured if none of them is text."""
    parts = [_told(part) for part in result.content]
    has_text = any(isinstance(part, TextContent) and part.text for part in result.content)
    if result.structured_content is not None and not has_text:
        parts.insert(0, json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":")))
    return "\n".join(part for part in parts if part)


def _told(part: Part) -> str:
    if isinstance(part, TextContent):
        return part.text
    if isinstance(part, ResourceLink):
        more = f" ({part.description})" if part.description else ""
        return f"{part.title or part.name}{more}: {part.uri}"
    if isinstance(part, EmbeddedResource):
        resource = part.resource
        if isinstance(resource, BlobResourceContents):
            return _note(f"file {resource.uri}", resource.mime_type, resource.blob)
        return resource.text
    return _note("image" if isinstance(part, ImageContent) else "sound", part.mime_type, part.data)


def _note(what: str, mime_type: str | None, data: str) -> str:
    size = len(data) * 3 // 4 - data[-2:].count("=")
    kind = f", {mime_type}" if mime_type else ""
    return f"[{what}{kind}, {size:,} bytes; it is not shown here]"
