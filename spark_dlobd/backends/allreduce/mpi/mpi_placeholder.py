"""What mpirun starts in place of a rank: hands the rank's environment over.

The rank itself is a child of its Spark task, started long before mpirun and
with TensorFlow already loaded. MPI's client library finds its server through
environment variables, so they are all the rank needs. This program delivers
them to the task through an abstract Unix socket (which leaves no file) and
stays until the task closes it. It imports the standard library alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> int:
    """Deliver the environment and wait: ``mpi_placeholder SOCKET_PREFIX TASK_OF_EACH_RANK``."""
    prefix, tasks = sys.argv[1:]
    task = tasks.split(",")[int(os.environ["OMPI_COMM_WORLD_RANK"])]
    address = "\0" + prefix + "-" + task
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30)
    connection.connect(address)
    connection.sendall(json.dumps(dict(os.environ)).encode() + b"\n")
    connection.settimeout(None)
    while connection.recv(1):
        continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
