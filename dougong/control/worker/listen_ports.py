"""Keeps the listeners of C++ libraries in this process within a range of ports.

gloo binds port 0, so that the system chooses, and knows no other way. Its call of the C library's
`bind` goes through an entry of the table in which its shared library keeps the addresses of what it
calls (the global offset table of an ELF file). That entry is replaced while workers meet: the call
comes here, is given a port of the range, and goes on to the real `bind`. `check` looks afterwards
at what this process listens on, so that a library that binds otherwise is refused, not believed.

Nobody waits for this while holding Python's lock: torch lets go of it before it makes its sockets.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from dougong.addresses import Ports
from dougong.control.ports import BACKLOG, NoPortError, fading, no_port_text
from dougong.deadlines import DEADLINES

LIBRARIES = ("libtorch", "libnccl", "libhccl")
"""How the files of libraries begin that listen on behalf of workers."""

# ELF-64, System V application binary interface: sizes in bytes, tags of the dynamic section, and
# the relocations that stand for the address of a function, by the machine's name.
_HEADER = struct.Struct("IIQQQQQQ")
_TAG = struct.Struct("qQ")
_RELOCATION = struct.Struct("QQq")
_SYMBOL_BYTES = 24
_DYNAMIC = 2
_END, _PLT_BYTES, _STRINGS, _SYMBOLS, _TABLE, _TABLE_BYTES, _PLT = 0, 2, 5, 6, 7, 8, 23
_FUNCTION_ENTRIES = {"x86_64": (6, 7), "aarch64": (1025, 1026)}

_BIND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, use_errno=True)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_TAKEN = (errno.EADDRINUSE, errno.EACCES)
_PORT_AT = 2  # of a sockaddr_in and a sockaddr_in6 alike, in the network's order


class PortKeeper:
    """A context in which `libraries` bind ports of the range where they leave the choice to the
    system. Without a range nothing is done.

    NoPortError in the place of any error in which the context ends, when a library asked for a port
    and all were taken.
    """

    def __init__(self, ports: Ports | None, libraries: Sequence[str] = LIBRARIES) -> None:
        self._ports = ports
        self._libraries = libraries
        self._found_none = False
        self._libc = ctypes.CDLL(None, use_errno=True)
        # The table holds its bare address, so that it must live as long as the entries lead here.
        # Not made in vain: some systems refuse memory for code that is made at run time.
        self._callback = None if ports is None else _BIND(self._bind)
        self._replaced: dict[int, int] = {}  # address of an entry -> what it held

    def __enter__(self) -> PortKeeper:
        if self._callback is not None:
            try:
                self._replace(ctypes.cast(self._callback, ctypes.c_void_p).value or 0)
            except BaseException:
                self._put_back()
                raise
        return self

    def _replace(self, mine: int) -> None:
        # Some linkers let the two tables overlap, so that an entry is found twice.
        for entry in dict.fromkeys(entries_of(b"bind", self._libraries)):
            before = _read_pointer(entry)
            self._write_pointer(entry, mine)
            self._replaced[entry] = before

    def _put_back(self) -> None:
        for entry, before in self._replaced.items():
            self._write_pointer(entry, before)
        self._replaced.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._put_back()
        if error is not None and self._found_none and self._ports is not None:
            raise NoPortError(no_port_text(self._ports)) from error

    def check(self) -> None:
        """NoPortError when this process listens on a port outside of the range."""
        if self._ports is None:
            return
        outside = sorted(port for port in own_ports() if port not in self._ports)
        if outside:
            raise NoPortError(
                f"a worker on {socket.gethostname()} listens on port "
                f"{', '.join(map(str, outside))}, outside of ports {self._ports}: its torch takes "
                "no notice of the range; leave `ports` (and DOUGONG_PORTS) out, and open the nodes "
                "to one another on all ports"
            )

    def _bind(self, fd: int, address: int, length: int) -> int:
        """What the libraries call in the place of the C library's function."""
        try:
            wish = ctypes.string_at(address, length)
            if self._leaves_choice(fd, wish):
                return self._bind_in_range(fd, wish)
            return self._bind_really(fd, wish)
        except Exception:  # C code has no use for it; it fails then, and says of what number
            ctypes.set_errno(errno.EINVAL)
            return -1

    def _leaves_choice(self, fd: int, wish: bytes) -> bool:
        if len(wish) < _PORT_AT + 2 or wish[_PORT_AT : _PORT_AT + 2] != b"\0\0":
            return False
        (family,) = struct.unpack_from("H", wish)
        return family in _FAMILIES and _is_stream(fd)

    def _bind_in_range(self, fd: int, wish: bytes) -> int:
        """0, or -1 with the error's number. A library tries an address out before it listens there,
        and holds a port for that moment: where all are taken, they are looked at again."""
        assert self._ports is not None
        until = time.monotonic() + DEADLINES.port_s
        while True:
            # Two sockets that allow sharing may both be bound to one port before either listens.
            _allow_sharing(fd, False)
            ring = tuple(self._ports.beginning_at(secrets.randbelow(len(self._ports))))
            if self._bind_one(fd, wish, ring):
                break
            _allow_sharing(fd, True)
            if ctypes.get_errno() in _TAKEN and self._bind_one(fd, wish, fading(ring)):
                break
            if ctypes.get_errno() not in _TAKEN:
                return -1
            if time.monotonic() >= until:
                self._found_none = True
                return -1
            time.sleep(DEADLINES.port_every_s)
        # At once, so that nobody comes between; the library's own call changes the backlog alone.
        if self._libc.listen(fd, BACKLOG) != 0:
            return -1
        _allow_sharing(fd, True)  # its connections will, once they fade away
        return 0

    def _bind_one(self, fd: int, wish: bytes, ports: Iterable[int]) -> bool:
        """Whether one of these ports could be had; the error's number stays."""
        for port in ports:
            chosen = wish[:_PORT_AT] + struct.pack("!H", port) + wish[_PORT_AT + 2 :]
            if self._bind_really(fd, chosen) == 0:
                return True
            if ctypes.get_errno() not in _TAKEN:
                return False
        ctypes.set_errno(errno.EADDRINUSE)
        return False

    def _bind_really(self, fd: int, address: bytes) -> int:
        return int(self._libc.bind(fd, address, len(address)))

    def _write_pointer(self, address: int, value: int) -> None:
        """Where the linker has made the table read-only, its page is writable meanwhile."""
        page = address // mmap.PAGESIZE * mmap.PAGESIZE
        protection = _protection_of(address)
        is_writable = bool(protection & mmap.PROT_WRITE)
        if not is_writable:
            self._protect(page, protection | mmap.PROT_WRITE)
        ctypes.c_void_p.from_address(address).value = value
        if not is_writable:
            self._protect(page, protection)

    def _protect(self, page: int, protection: int) -> None:
        num_bytes = ctypes.c_size_t(mmap.PAGESIZE)
        if self._libc.mprotect(ctypes.c_void_p(page), num_bytes, protection) != 0:
            raise NoPortError(
                f"{socket.gethostname()} does not let torch be kept to ports {self._ports} "
                f"(mprotect: {os.strerror(ctypes.get_errno())}); leave `ports` out"
            )


def own_ports() -> set[int]:
    """The TCP ports on which this process listens."""
    found = set()
    # Only its own: to ask for everybody's is slow on a busy machine, and root's right on some.
    for entry in psutil.Process().net_connections("tcp"):
        if entry.status == psutil.CONN_LISTEN and entry.laddr:
            found.add(entry.laddr.port)
    return found


def entries_of(symbol: bytes, libraries: Sequence[str]) -> list[int]:
    """Where loaded libraries, whose files' names begin so, keep the address of a function that they
    call. None on a system whose libraries are not of a kind that is known here."""
    kinds = _FUNCTION_ENTRIES.get(platform.machine())
    if kinds is None or not sys.platform.startswith("linux"):
        return []
    found: list[int] = []
    for library in _loaded():
        if Path(library.name).name.startswith(tuple(libraries)):
            found += _entries_in(library, symbol, kinds)
    return found


@dataclass(frozen=True)
class _Library:
    """A shared library of this process: its file, where it was loaded, its program headers."""

    name: str
    base: int
    headers: bytes

    def dynamic(self) -> dict[int, int]:
        """Its dynamic section, by tag; empty where it has none."""
        for kind, _, _, address, _, _, num_bytes, _ in _HEADER.iter_unpack(self.headers):
            if kind == _DYNAMIC:
                return _read_tags(ctypes.string_at(self.base + address, num_bytes))
        return {}

    def place(self, address: int) -> int:
        """Of an address in the dynamic section, which some loaders have made absolute."""
        return address if address >= self.base else self.base + address


class _Info(ctypes.Structure):
    """The beginning of what dl_iterate_phdr(3) says of a library."""

    _fields_ = (
        ("base", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("num_headers", ctypes.c_uint16),
    )


def _loaded() -> list[_Library]:
    found = []

    def note(info: ctypes._Pointer[_Info], size: int, data: int | None) -> int:
        one = info.contents
        headers = ctypes.string_at(one.headers, one.num_headers * _HEADER.size)
        found.append(_Library(os.fsdecode(one.name or b""), one.base, headers))
        return 0  # go on

    visitor = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(_Info), ctypes.c_size_t, ctypes.c_void_p
    )
    ctypes.CDLL(None).dl_iterate_phdr(visitor(note), None)
    return found


def _read_tags(section: bytes) -> dict[int, int]:
    tags: dict[int, int] = {}
    for tag, value in _TAG.iter_unpack(section):
        if tag == _END:
            break
        tags[tag] = value
    return tags


def _entries_in(library: _Library, symbol: bytes, kinds: tuple[int, int]) -> Iterator[int]:
    tags = library.dynamic()
    # Calls stand in the first table, as a rule. The other one, of all addresses, is long.
    for table, num_bytes in ((_PLT, _PLT_BYTES), (_TABLE, _TABLE_BYTES)):
        if not {table, num_bytes, _STRINGS, _SYMBOLS} <= tags.keys():
            continue
        rows = ctypes.string_at(library.place(tags[table]), tags[num_bytes])
        for offset, info, _ in _RELOCATION.iter_unpack(rows):
            is_function = info & 0xFFFFFFFF in kinds
            if is_function and _name_of(library, tags, info >> 32) == symbol:
                yield library.base + offset


def _name_of(library: _Library, tags: Mapping[int, int], index: int) -> bytes:
    symbol = library.place(tags[_SYMBOLS]) + index * _SYMBOL_BYTES
    (offset,) = struct.unpack("I", ctypes.string_at(symbol, 4))
    return ctypes.string_at(library.place(tags[_STRINGS]) + offset)


def _read_pointer(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


def _protection_of(address: int) -> int:
    """How the page of an address is mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, modes, *_ = line.split()
        first, _, end = span.partition("-")
        if int(first, 16) <= address < int(end, 16):
            protection = mmap.PROT_READ if "r" in modes else 0
            protection |= mmap.PROT_WRITE if "w" in modes else 0
            return protection | (mmap.PROT_EXEC if "x" in modes else 0)
    return mmap.PROT_READ | mmap.PROT_WRITE


def _is_stream(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return sock.type == socket.SOCK_STREAM
    finally:
        sock.detach()  # the descriptor is the library's


def _allow_sharing(fd: int, is_allowed: bool) -> None:
    sock = socket.socket(fileno=fd)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(is_allowed))
    finally:
        sock.detach()
