"""Test doubles and contracts, shipped to users: tests of code that uses holdfast can look like our own.

scripted        a chat client whose answers are written down beforehand
runtime         a clock, ids and chance that come from a seed
openai_chat     a local service that speaks Chat Completions, as strict as the real one
azure_openai    the same in Azure's dialect
standin         what all stand-in services share: a real HTTP server, a script, a journal
contracts       the situations that every store must come through, as tests to subclass
state_machine   any order of operations on a store, compared with plain lists (needs hypothesis)
"""
