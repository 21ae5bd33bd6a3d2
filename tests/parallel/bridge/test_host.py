"""The bridge that is always there."""

from __future__ import annotations

import subprocess
import sys

import torch
from dougong.parallel.bridge.base import Opening
from dougong.parallel.bridge.host import HostBridge
from dougong.parallel.bridge.host_end import HostEnd
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.threads import MessageThread


def test_it_opens_where_there_is_nothing_but_a_processor() -> None:
    member = Membership(0, 2, 1, "a", (), torch.device("cpu"), (0,))
    end = HostBridge().open(Opening(member, (0, 1), "rows", None, (), MessageThread))
    assert isinstance(end, HostEnd)
    assert end.facts() == "1 connections of gloo, chunks of 512 to 2048 KiB in plain memory"
    end.abort()
    end.close()


def test_a_plan_asks_it_without_torch() -> None:
    code = "import sys; from dougong.parallel.bridge.choice import choose_paths; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
