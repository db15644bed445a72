"""The ground floor: plain frozen data and pure functions about conversations.

Nothing here knows an agent, a service or a store, opens a file or asks for the time.
It imports the standard library and msgspec, nothing else.
"""
