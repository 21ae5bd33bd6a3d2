"""gloo from a chosen address of this machine.

torch's own gloo speaks from the first address of an interface that a variable names, or from the
one that the machine's name stands for: on many systems 127.0.1.1, and on an interface with IPv4 and
IPv6 perhaps one of the family that the peers do not reach. Given a device it takes none of its own,
and a backend of ours is the way in which torch lets one be given.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

NAME = "dougong_gloo"
"""What this backend is called among torch's."""
_THREADS = 2  # as many as torch's own gloo has


def register() -> None:
    """Make the backend known to torch; may be called again."""
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _make, extended_api=True, devices=["cpu"])


def listen(address: str) -> Any:
    """A socket that peers connect to, and a thread for the messages of the groups that are given
    it: large ones of other groups do not hold them up. `address`: this worker's own, as its peers
    reach it. Raises RuntimeError where the address cannot be listened on."""
    library: Any = dist.ProcessGroupGloo
    return library.create_device(hostname=address)


def options(listener: Any, timeout: timedelta) -> Any:
    """What one group of this backend is made with. `listener`: by `listen`."""
    library: Any = dist.ProcessGroupGloo
    made = library._Options()
    made._devices = [listener]
    made._threads = _THREADS
    made._timeout = timeout
    return made


def _make(group: Any, given: Any) -> Any:
    if given is None:  # another library's group, of which it is all the same to us how it speaks
        return dist.ProcessGroupGloo(group.store, group.group_rank, group.group_size, group.timeout)
    given.global_ranks_in_group = group.global_ranks_in_group
    given.group_name = group.group_id
    return dist.ProcessGroupGloo(group.store, group.group_rank, group.group_size, given)
