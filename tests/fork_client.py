"""One command of `fork_server.py`: `python -I -S fork_client.py SOCKET FILE ARGUMENT...`.

The command has this process's files, folder and environment, gets its signals, and decides how it
ends. The id of its process is written to the open file of that number, unless it is 0.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Start the command, pass signals on, and end as it does."""
    address, file, *arguments = sys.argv[1:]
    request = {"arguments": arguments, "folder": os.getcwd(), "environ": dict(os.environ)}  # noqa: PTH109 - quick to start
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    pid = int(connection.recv(100))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda number, _frame: os.kill(pid, number))
    if file != "0":
        os.write(int(file), b"%d" % pid)
        os.close(int(file))
    # Without an answer the server is gone.
    code = int(connection.recv(100) or 1)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
