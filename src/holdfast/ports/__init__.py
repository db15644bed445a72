"""The first floor: what the engine asks of the outside, as protocols.

Clients and stores are written against these; the engine knows nothing else of them.
"""
