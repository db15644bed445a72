"""llama.cpp's own HTTP server with the tiny model, as a program: `python llama_server.py DIRECTORY CONTEXT_SIZE`.

Writes the model into the directory, prints its address when it is ready to answer, and ends when its stdin does: so
it never outlives the tests, however they die.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import xllamacpp
from tiny_model import NAME, write_model


def main(directory: Path, context_size: int) -> None:
    model = directory / f"{NAME}.gguf"
    write_model(model)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(model)
    settings.model_alias = {NAME}
    settings.hostnames = ["127.0.0.1"]
    settings.port = 0
    settings.n_ctx = context_size
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    # Threads of the engine wait for each other in a loop that does nothing: on cores that are busy with tests, two of
    # them are up to fifty times slower than one.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.use_jinja = True
    settings.warmup = False
    settings.verbosity = 0
    settings.endpoint_metrics = True
    # Whatever is read from the cache was in the last request: no other conversation is kept aside.
    settings.cache_ram_mib = 0
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # without a word to the server, which may be in the middle of an answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
