"""Starts `python -m router` without the second that its imports take: a process forks for each.

    python tests/fork_server.py SOCKET          # ends when its standard input does

It has imported what every command imports. A command is a connection to the socket, from
`fork_client.py`: first a request with the three standard files, then two answers, the id of the
process and its return code. A connection that is closed before kills the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The command line with all its commands, the server, and what a run's report needs.
PRELOADED = (
    "router.cli",
    *(f"router.cli.{module.name}" for module in pkgutil.iter_modules([str(ROOT / "router/cli")])),
    "router.server",
    "evaluators.stats.power",
    "scipy.stats",
)
MAX_REQUEST_BYTES = 1_000_000


def serve(listener: socket.socket) -> dict[str, object] | None:
    """Fork for each request; return the request in the child, and None at the end of the server."""
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    selector = selectors.DefaultSelector()
    for source in (listener, awake, sys.stdin):
        selector.register(source, selectors.EVENT_READ)
    clients: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return None
            if key.fileobj is awake:
                awake.recv(4096)
                answer_clients(clients, selector)
            elif key.fileobj is listener:
                client, _ = listener.accept()
                request, files, _, _ = socket.recv_fds(client, MAX_REQUEST_BYTES, 3)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    for end in (listener, awake, wake, client, *clients.values()):
                        end.close()
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                        os.close(file)
                    return json.loads(request)
                for file in files:
                    os.close(file)
                clients[pid] = client
                selector.register(client, selectors.EVENT_READ, pid)
                client.send(str(pid).encode())
            elif key.data in clients:
                # A client says nothing more: it is gone.
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)


def answer_clients(clients: dict[int, socket.socket], selector: selectors.DefaultSelector) -> None:
    """Tell the clients of processes that have ended."""
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        client = clients.pop(pid)
        if client in selector.get_map():
            selector.unregister(client)
            client.send(str(os.waitstatus_to_exitcode(status)).encode())
        client.close()


def become(request: dict[str, object]) -> None:
    """Take over what a new process would have from its caller, and run the command."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["router", *request["arguments"]]
    sys.path[0] = request["folder"]
    gc.enable()
    runpy.run_module("router", run_name="__main__", alter_sys=True)


def main() -> None:
    """Listen on the socket that is named, then say so, import and serve."""
    sys.path.insert(0, str(ROOT))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        print("listening", flush=True)  # noqa: T201 - who started it waits for this
        gc.disable()
        for name in PRELOADED:
            importlib.import_module(name)
        # A server does that in a thread after its start.
        for read in importlib.import_module("router.api.preparation").pieces():
            read()
        # Reads the environment when it is imported (the width of the terminal).
        for name in [name for name in sys.modules if name.startswith("router.cli")]:
            del sys.modules[name]
        # What is there stays: children do not copy it for the collector's sake.
        gc.freeze()
        request = serve(listener)
    if request is not None:
        sys.path.pop(0)
        become(request)


main()
