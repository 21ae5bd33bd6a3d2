"""Two hosts that talk: small programs of Python for both ends of a connection."""

from __future__ import annotations

from dougong.testing import Host, HostProcess

LISTEN = """
import socket, sys
address, port, num_connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.create_server((address, port), family=family) as server:
    print("ready", flush=True)
    for _ in range(num_connections):
        line, _ = server.accept()
        with line:
            received = 0
            while data := line.recv(65536):
                received += len(data)
            print("received", received, flush=True)
"""

SEND = """
import socket, sys
address, port, num_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_connection((address, port), timeout=float(sys.argv[4])) as line:
    line.sendall(bytes(num_bytes))
    line.shutdown(socket.SHUT_WR)
    line.recv(1)
print("sent")
"""


def listen(host: Host, port: int, address: str | None = None, num_connections: int = 1) -> HostProcess:
    process = host.start(["python", "-c", LISTEN, address or host.address, str(port), str(num_connections)])
    process.wait_for("ready", 20)
    return process


def sends(host: Host, address: str, port: int, num_bytes: int = 1000, timeout_s: float = 20.0) -> bool:
    """Whether the bytes arrive within the limit: the other end closes when it has them all."""
    done = host.run(["python", "-c", SEND, address, str(port), str(num_bytes), str(timeout_s)], timeout_s + 20)
    assert done.status == 0 or "timed out" in done.output, done.output
    return done.status == 0
