"""Telemetry: whether anybody in this process wants to be told of runs.

Rule of this file: it imports nothing of OpenTelemetry. Who has set up a provider has imported it already; as long as
nobody has, there are no spans, and a run goes the way it would go without us.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from holdfast.engine.middleware import Around

if TYPE_CHECKING:
    from holdfast.engine.spans import Watch

# What watches with the providers that were last seen; a program sets up one of each.
_watch: Watch | None = None


def watched(around: Around) -> Around:
    """The middleware with our spans and measurements around it; the same as it was if nobody has set up a provider."""
    global _watch
    traces, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics")
    tracers = traces.get_tracer_provider() if traces else None
    meters = metrics.get_meter_provider() if metrics else None
    if not _does_something(tracers) and not _does_something(meters):
        return around
    if _watch is None or _watch.tracers is not tracers or _watch.meters is not meters:
        from holdfast.engine.spans import Watch

        _watch = Watch(tracers, meters)
    return _watch.around.within(around)


def _does_something(provider: object) -> bool:
    """The providers that come with the API alone stand in for those of an SDK, and drop what they are told."""
    return provider is not None and not type(provider).__module__.startswith(_OF_THE_API)


_OF_THE_API = ("opentelemetry.trace", "opentelemetry.metrics")
