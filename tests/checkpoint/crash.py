"""Dying at a chosen moment: a forked child that is killed by SIGKILL at its n-th call to the file system."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import torch

CALLS = ("open", "pwrite", "fsync", "mkdir", "rename", "unlink")


def run_dying(task: Callable[[], Any], at_call: int) -> int:
    """Run `task` in a forked child; returns its exit code: 0 done, -9 killed just before its call number `at_call`."""
    process = start_dying(task, at_call)
    return join(process)


def start_dying(task: Callable[[], Any], at_call: int) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_child, args=(task, at_call))
    process.start()
    return process


def join(process: Any) -> int:
    process.join(60)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the child hangs")
    return int(process.exitcode)


def _child(task: Callable[[], Any], at_call: int) -> None:
    torch.set_num_threads(1)
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    task()
