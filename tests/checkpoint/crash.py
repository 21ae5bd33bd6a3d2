"""Dying at a chosen moment: a forked child that is killed by SIGKILL at its n-th call that changes the file system."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import torch

CALLS = ("open", "pwrite", "fsync", "mkdir", "rename", "unlink", "rmdir")


def run_dying(task: Callable[[], Any], at_call: int, is_torn: bool = False) -> int:
    """Run `task` in a forked child; returns its exit code: 0 done, -9 killed just before its call number `at_call`;
    with `is_torn` only those that write are counted, and half of it is written."""
    process = start_dying(task, at_call, is_torn)
    return join(process)


def start_dying(task: Callable[[], Any], at_call: int, is_torn: bool = False) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_child, args=(task, at_call, is_torn))
    process.start()
    return process


def join(process: Any) -> int:
    process.join(60)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the child hangs")
    return int(process.exitcode)


def _child(task: Callable[[], Any], at_call: int, is_torn: bool) -> None:
    torch.set_num_threads(1)
    count, pwrite = 0, os.pwrite

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at_call:
                if is_torn:
                    fd, data, offset = args
                    pwrite(fd, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    for name in ("pwrite",) if is_torn else CALLS:
        setattr(os, name, counted(getattr(os, name)))
    task()
