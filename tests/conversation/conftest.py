from __future__ import annotations

from hypothesis import settings

# How long an example takes says something of the machine that the tests run on, and nothing of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
