"""Test doubles and contracts, shipped to users: tests of code that uses holdfast can look like our own.

    openai_chat     a local service that speaks Chat Completions, as strict as the real one
    standin         what all stand-in services share: a real HTTP server, a script, a journal

Nothing is imported here; import the module that you need.
"""
