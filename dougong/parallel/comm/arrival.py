"""What a worker goes through before its first step, as far as others can be waited for there."""

from __future__ import annotations

from enum import IntEnum


class Arrival(IntEnum):
    """In this order. Its number is what the worker reports as its operation meanwhile."""

    BEGINS = 0  # up to the controller's store
    AT_STORE = 1  # has come there, and waits until all have
    CONNECTS = 2  # to all others
    BUILDS = 3  # its part of the model
