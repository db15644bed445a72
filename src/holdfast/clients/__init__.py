"""The third floor: one file per chat service, each a codec (pure) and a client (sends once)."""
