"""Tools: Python functions, and what else a model may call, as the engine takes them."""
