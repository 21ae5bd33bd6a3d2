"""Messages both ways between a controller and its backend's process, over a pair of sockets that
nobody else has."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from dougong.control.channel import FrameBuffer
from dougong.launcher.backends.process.messages import BackendMessage, from_line, to_line

_READ_BYTES = 1 << 16


class BackendLine:
    """One end. `send` may be called from several threads, `receive` from one."""

    def __init__(self, sock: socket.socket, send_s: float) -> None:
        """`send_s`: how long the other end may take to read."""
        # A limit of Python's own would be one of the reader beside as well.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(send_s), 0))
        self._sock = sock
        self._frames = FrameBuffer()
        self._turn = threading.Lock()

    def send(self, message: BackendMessage) -> None:
        """OSError when the other end is gone or does not read."""
        data = to_line(message)
        with self._turn:
            self._sock.sendall(data)

    def receive(self) -> BackendMessage:
        """The next message, however long that takes: the other end's death ends the stream.

        EOFError at that; ProtocolError for what is no message.
        """
        while (frame := self._frames.next_frame()) is None:
            self._frames.feed(self._read())
        return from_line(frame)

    def close(self) -> None:
        """A reader in another thread wakes with EOFError."""
        with contextlib.suppress(OSError):  # the other end was first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _read(self) -> bytes:
        try:
            data = self._sock.recv(_READ_BYTES)
        except OSError as error:
            raise EOFError(str(error)) from error
        if not data:
            raise EOFError("the other end has closed the line")
        return data
