"""llama.cpp's own server in a process of its own, for a model of `tiny_gguf.py`."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from providers.local_servers import xllamacpp_server

SERVER = Path(xllamacpp_server.__file__)


@contextmanager
def llama_server(model, *, key=""):
    """A server of one model, `tiny`; yields its address without a path.

    Not in this process, where the library's destructor may wait for its threads for ever.
    """
    options = ["-m", model, "-a", "tiny", "--port", "0", "-c", "256", "--no-warmup"]
    command = [sys.executable, "-P", SERVER, *options, "--api-key", key]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.kill()
