from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from raw_server import Wire


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A server that plays raw bytes."""
    server = Wire()
    await server.start()
    yield server
    await server.stop()
