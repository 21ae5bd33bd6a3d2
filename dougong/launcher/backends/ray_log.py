"""What Ray prints by itself, behind Python's back and through Python's logging, goes to the run's
`logs/ray.log`: the console is the run's."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FORMAT = "%(asctime)s %(levelname)s %(filename)s:%(lineno)s -- %(message)s"
_PRINTS = "print_to_stdstream"


@contextlib.contextmanager
def logging_into(log: Path | None) -> Iterator[None]:
    """What Ray tells Python's logging goes to the end of `log`, and with it what it tells of the
    cluster's troubles. None: errors alone, where Ray would print them."""
    logger = logging.getLogger("ray")
    with _troubles_into(logger):
        handlers, level = list(logger.handlers), logger.level
        handler = _handler(log)
        if handler is None:
            logger.setLevel(logging.ERROR)
        else:
            logger.setLevel(logging.INFO)
            logger.handlers[:] = [handler]
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            if handler is not None:
                handler.close()


@contextlib.contextmanager
def _troubles_into(logger: logging.Logger) -> Iterator[None]:
    """What the cluster tells its drivers, such as that a node has died, is an error's line of
    Ray's logging. Ray has a thread that prints it on standard output, whatever `log_to_driver`
    says."""

    def note(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            logger.error("(%s) %s", data["pid"], str(line).rstrip())

    # Ray makes logging handlers of its own when it is imported: before ours are set.
    worker: Any = importlib.import_module("ray._private.worker")
    before = getattr(worker, _PRINTS, None)
    if before is None:  # a name of Ray's own, in another Ray
        yield
        return
    setattr(worker, _PRINTS, note)
    try:
        yield
    finally:
        setattr(worker, _PRINTS, before)


def _handler(log: Path | None) -> logging.Handler | None:
    target = _opened(log)
    if target is None:
        return None
    os.close(target)  # it can be written
    assert log is not None
    handler = logging.FileHandler(log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(_FORMAT))
    return handler


@contextlib.contextmanager
def raw_lines_into(log: Path | None) -> Iterator[None]:
    """What C++ code prints on standard error goes to the end of `log`; what Python code prints
    there still reaches the console. None: everything stays as it is.

    Ray's libraries write to descriptor 2 behind Python's back, from threads of their own, also long
    after they were started.
    """
    target = _opened(log)
    if target is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(target, 2)
    os.close(target)
    console = os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace")
    try:
        with contextlib.redirect_stderr(console):
            yield
    finally:
        console.close()
        os.dup2(kept, 2)
        os.close(kept)


def _opened(log: Path | None) -> int | None:
    if log is None:
        return None
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:  # a log that cannot be written must not stop a run
        return None
