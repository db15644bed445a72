"""The ground floor: plain frozen data and pure functions about conversations.

Nothing here knows an agent, a service or a store, opens a file or asks for the time.
It imports the standard library and msgspec, nothing else.
"""

import logging

# Quiet by default: who wants to hear holdfast gives the logger "holdfast" a handler. Content and keys are never logged.
logging.getLogger("holdfast").addHandler(logging.NullHandler())
