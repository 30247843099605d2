"""What mpirun calls instead of ssh: hands a daemon's command line to the Spark task.

``mpi_agent SOCKET_PREFIX HOST COMMAND...``. Ends at once with success; the task
sees to it that the command runs on that host. Imports the standard library
alone.
"""

from __future__ import annotations

import json
import socket
import sys


def main() -> int:
    """Deliver the command."""
    prefix, host, *command = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect("\0" + prefix + "-agent")
        message = {"host": host, "command": " ".join(command)}
        connection.sendall(json.dumps(message).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
