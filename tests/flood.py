"""`python -m tests.flood HOST PORT NUM`: so many connections that say nothing; one that is ended is made anew.

Prints `there` once all have been made, and at the end of its standard input how many there were.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import subprocess
import sys
from collections.abc import Iterator


def main(host: str, port: int, num: int) -> None:
    known: dict[int, socket.socket] = {}
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    made = 0
    while True:
        while len(known) < num:
            sock = socket.socket()
            sock.setblocking(False)
            if sock.connect_ex((host, port)) not in (0, errno.EINPROGRESS):
                sock.close()
                break
            known[sock.fileno()] = sock
            poll.register(sock.fileno(), select.EPOLLRDHUP)  # readable it is by the nonce
            made += 1
            if made == num:
                print("there", flush=True)
        for fd, _ in poll.poll(0.05):
            if fd == sys.stdin.fileno():
                print(made, flush=True)
                return
            poll.unregister(fd)
            known.pop(fd).close()


@contextlib.contextmanager
def flood(address: tuple[str, int], num: int) -> Iterator[subprocess.Popen[str]]:
    """Such a process, from when all its connections have been begun."""
    command = [sys.executable, "-m", "tests.flood", *map(str, address), str(num)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> int:
    """How many connections it has made in all."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    return int(process.stdout.readline())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
