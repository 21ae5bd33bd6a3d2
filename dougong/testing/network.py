"""The lab's network, as lines for `ip`, `iptables-restore` and `tc`: a switch, a cable to each
host, what is counted, and what goes wrong.

The switch is a bridge in a network namespace of its own; each host has one end of a veth pair as
`eth0`, the switch the other as `port0`, `port1`, ... Firewall rules stand where packets arrive: a
rule where they leave would be an error to the sender, and a lost packet is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dougong.testing.namespaces import Place

SWITCH_ADDRESS = "10.0.0.254"
NORMAL_MTU = 1500
# A packet's headers before its payload: IPv4 20 or IPv6 40, TCP 20 and its time stamps 12.
_HEADER_BYTES = {4: 52, 6: 72}
_BITS_OF_A_BYTE = 8
_MEGA = 1_000_000
# A bucket that a rate fills: at least a packet, at most some milliseconds of the rate.
_BURST_BYTES = 32_768
_BURST_PART_OF_A_SECOND = 0.004


@dataclass(frozen=True)
class Traffic:
    """What has arrived from one host at another since the lab began, over all their addresses.

    `num_bytes`: with the headers of IP and TCP, without those of Ethernet. `num_packets`: as the
    receiver's system saw them, which joins what arrives together. `payload_bytes`: without headers,
    exact for TCP with time stamps, as Linux sends it.
    """

    num_bytes: int = 0
    num_packets: int = 0
    payload_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.num_bytes + other.num_bytes,
            self.num_packets + other.num_packets,
            self.payload_bytes + other.payload_bytes,
        )

    def __sub__(self, earlier: Traffic) -> Traffic:
        """What arrived between two looks."""
        return Traffic(
            self.num_bytes - earlier.num_bytes,
            self.num_packets - earlier.num_packets,
            self.payload_bytes - earlier.payload_bytes,
        )


@dataclass(frozen=True)
class Cable:
    """From the switch's port to a host's `eth0`."""

    switch: Place
    port: str
    host: Place


def version_of(address: str) -> int:
    """4 or 6, of an IP address."""
    return 6 if ":" in address else 4


def switch_lines(bridge: str) -> list[str]:
    """A bridge that forwards at once and says nothing of its own."""
    return [
        f"link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
        f"link set {bridge} up",
    ]


def cable_lines(bridge: str, port: str, interface: str, pid: int) -> list[str]:
    """A cable from the bridge's port to the interface in the network of process `pid`."""
    return [
        f"link add {port} type veth peer name {interface} netns {pid}",
        f"link set {port} master {bridge}",
        f"link set {port} up",
    ]


def interface_lines(interface: str, addresses: Iterable[str]) -> list[str]:
    """The host's end of a cable, up, with its addresses (`ADDRESS/LENGTH`)."""
    return [
        *(f"addr add {one} dev {interface}{_at_once(one)}" for one in addresses),
        f"link set {interface} up",
    ]


def _at_once(address: str) -> str:
    """An IPv6 address is otherwise of no use until nobody else has claimed it, for seconds."""
    return " nodad" if version_of(address) == 6 else ""


DROP, ALLOW, COUNT = "LAB-DROP", "LAB-ALLOW", "LAB-COUNT"


def empty_chains() -> list[str]:
    """The lab's own chains, in a host that is new: what is dropped or shut out is not counted."""
    chains = (DROP, ALLOW, COUNT)
    return [
        *(f":{chain} - [0:0]" for chain in chains),
        *(f"-A INPUT -j {chain}" for chain in chains),
    ]


def counted(address: str) -> str:
    """What arrives from this address is counted, and goes on."""
    return f"-A {COUNT} -s {address}"


def dropped(address: str) -> str:
    """What arrives from this address is lost."""
    return f"-A {DROP} -s {address} -j DROP"


def open_to(ports: Iterable[int | tuple[int, int]], sources: Iterable[str]) -> list[str]:
    """New connections from these addresses are lost but for those to the ports (a pair: first and
    last); what belongs to a connection that stands comes through, as does ICMP.

    Without a memory of connections: in TCP only the packet that asks for one has SYN and no ACK.
    """
    ranges = [_range(one) for one in ports]
    lines = []
    for source in sources:
        lines += [f"-A {ALLOW} -s {source} -p tcp ! --syn -j RETURN"]
        lines += [f"-A {ALLOW} -s {source} -p tcp --dport {one} -j RETURN" for one in ranges]
        lines += [f"-A {ALLOW} -s {source} -p {one} -j DROP" for one in ("tcp", "udp")]
    return lines


def _range(ports: int | tuple[int, int]) -> str:
    return str(ports) if isinstance(ports, int) else f"{ports[0]}:{ports[1]}"


def flushed(chains: Iterable[str]) -> list[str]:
    """The chains without their rules."""
    return [f"-F {chain}" for chain in chains]


def read_counters(place: Place, version: int) -> dict[str, Traffic]:
    """Address -> what has arrived from it, IP of this version."""
    save = "iptables-save" if version == 4 else "ip6tables-save"
    text = place.net([save, "--counters", "--table", "filter"])
    pattern = rf"^\[(\d+):(\d+)\] -A {COUNT} -s ([\w.:]+)/\d+"
    found = {}
    for packets, total, address in re.findall(pattern, text, re.MULTILINE):
        payload = int(total) - int(packets) * _HEADER_BYTES[version]
        found[address] = Traffic(int(total), int(packets), payload)
    return found


def limit_words(interface: str, mb_s: float | None) -> list[str]:
    """`tc` words: what leaves over the interface is held to so many megabytes (10^6) a second;
    None: to nothing."""
    if mb_s is None:
        return ["tc", "qdisc", "delete", "dev", interface, "root"]
    bytes_s = round(mb_s * _MEGA)
    burst = max(_BURST_BYTES, round(bytes_s * _BURST_PART_OF_A_SECOND))
    rate = f"{bytes_s * _BITS_OF_A_BYTE}bit"
    shape = ["tbf", "rate", rate, "burst", str(burst), "latency", "200ms"]
    return ["tc", "qdisc", "replace", "dev", interface, "root", *shape]
