"""What goes wrong in the network goes wrong there and nowhere else, and is healed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dougong.testing import Lab, Traffic
from tests.testing.talk import listen, sends

pytestmark = pytest.mark.lab

QUICK_S = 0.7  # a connection in a lab takes milliseconds; one that is shut out waits for ever


@pytest.fixture(autouse=True)
def healed(lab: Lab) -> Iterator[None]:
    yield
    lab.heal()


def test_hosts_reach_one_another_by_both_protocols_and_by_name(lab: Lab) -> None:
    one, two = lab.hosts
    server = listen(two, 7000)
    assert sends(one, "node1", 7000)
    assert server.wait(20) == 0
    server = listen(two, 7001, two.address6)
    assert sends(one, two.address6, 7001)
    assert "received 1000" in server.wait_for("received", 20)


def test_bytes_are_counted_per_ordered_pair_headers_apart(lab: Lab) -> None:
    one, two = lab.hosts
    there, back = lab.bytes_between(one, two), lab.bytes_between(two, one)
    for port, address in ((7010, two.address), (7011, two.address6)):
        server = listen(two, port, address)
        assert sends(one, address, port, num_bytes=2_000_000)
        server.wait(20)
    there = lab.bytes_between(one, two) - there
    back = lab.bytes_between(two, one) - back
    assert 4_000_000 <= there.payload_bytes < 4_200_000, "what is sent once more on a busy machine counts as sent"
    assert there.num_bytes == there.payload_bytes + 52 * there.num_packets + 20 * there_by_6(there)
    assert abs(back.payload_bytes) < 200 and back.num_packets > 4


def there_by_6(traffic: Traffic) -> int:
    """Packets of IPv6, whose header is 20 bytes longer, from the sums."""
    return (traffic.num_bytes - traffic.payload_bytes - 52 * traffic.num_packets) // 20


def test_a_drop_is_of_one_direction_unless_both_are_asked(lab: Lab) -> None:
    one, two = lab.hosts
    lab.drop(one, two)
    arrived = lab.bytes_between(two, one).num_packets
    listen(one, 7020)
    assert not sends(two, one.address, 7020, timeout_s=QUICK_S)
    assert lab.bytes_between(two, one).num_packets > arrived, "what two asks arrives; the answer is lost"
    lab.heal()
    assert sends(two, one.address, 7020)
    lab.drop(one, two, both_ways=True)
    arrived = lab.bytes_between(two, one)
    assert not sends(two, one.address6, 7020, timeout_s=QUICK_S)
    assert lab.bytes_between(two, one) == arrived


def test_only_the_ports_of_a_list_are_open(lab: Lab) -> None:
    one, two = lab.hosts
    for port in (7030, 7031, 7032):
        listen(one, port)
    one.allow_only([7030, (7032, 7040)], from_=two)
    assert [sends(two, one.address, port, timeout_s=QUICK_S) for port in (7030, 7031, 7032)] == [True, False, True]
    listen(two, 7030)
    assert sends(one, two.address, 7030), "the other direction is open"


def test_a_switch_of_small_frames_loses_large_packets_in_silence(lab: Lab) -> None:
    one, two = lab.hosts
    lab.set_mtu(hosts=9000, switch=1500)
    listen(one, 7050, num_connections=2)
    assert sends(two, one.address, 7050, num_bytes=500)
    assert not sends(two, one.address, 7050, num_bytes=65536, timeout_s=QUICK_S)
    lab.set_mtu(hosts=1500)
    listen(one, 7051)
    assert sends(two, one.address, 7051, num_bytes=65536)
    lab.set_mtu(hosts=9000, switch=9000)
    listen(one, 7052)
    assert sends(two, one.address, 7052, num_bytes=65536)


def test_a_limited_cable_is_slow_each_way(lab: Lab) -> None:
    one, two = lab.hosts
    lab.limit(1)
    for sender, receiver in ((one, two), (two, one)):
        listen(receiver, 7060)
        # 0.7 MB take 0.7 s: not there after 0.4, and the limit is no cut.
        assert not sends(sender, receiver.address, 7060, num_bytes=700_000, timeout_s=0.4)
        listen(receiver, 7061)
        assert sends(sender, receiver.address, 7061, num_bytes=200_000)
    lab.limit(None)
    listen(one, 7062)
    assert sends(two, one.address, 7062, num_bytes=2_000_000)


def test_a_second_network_and_an_interface_that_leads_nowhere(lab: Lab) -> None:
    one, two = lab.hosts
    lab.add_network("eth1", "192.168.7")
    for host in lab.hosts:
        host.add_bridge("docker0", "172.17.0.1/16")
    assert two.addresses == ["10.0.0.2", "fd00::2", "192.168.7.2"]
    before = lab.bytes_between(one, two)
    listen(two, 7070, "192.168.7.2")
    assert sends(one, "192.168.7.2", 7070, num_bytes=5000)
    assert (lab.bytes_between(one, two) - before).payload_bytes >= 5000
    assert "172.17.0.1/16" in two.check(["ip", "addr", "show", "docker0"])


def test_a_name_server_that_never_answers(lab: Lab) -> None:
    assert lab.hosts[0].run(["getent", "hosts", "somewhere.example"]).status == 2, "unknown at once"
    lab.kill_dns()
    asked = lab.hosts[0].run(["python", "-c", ASK])
    assert asked.output == "no answer\n", asked.output


ASK = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
    line.settimeout(0.5)
    line.connect((open("/etc/resolv.conf").read().split()[1], 53))
    line.send(b"?")
    try:
        line.recv(10)
    except TimeoutError:
        print("no answer")
"""


def test_debian_s_line_for_a_host_s_own_name(lab: Lab) -> None:
    lab.use_debian_hosts()
    assert lab.hosts[0].check(["getent", "hosts", "node0"]).split() == ["127.0.1.1", "node0"]
    assert lab.hosts[0].check(["getent", "hosts", "node1"]).split() == ["10.0.0.2", "node1"]
    lab.heal()
    assert lab.hosts[0].check(["getent", "hosts", "node0"]).split() == ["10.0.0.1", "node0"]
