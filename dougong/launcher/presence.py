"""Does a run have a controller? What can be known of it from here, each as a value.

A controller that does not answer may be dead, stopped, or out of reach. Who may follow it is for
its lease to say (`records.lease`); here it is asked, and what it does is put into words.
"""

from __future__ import annotations

import socket
from enum import Enum

from dougong.control.channel import UnreachableError, connect
from dougong.control.messages import Acknowledged, OrderDrill, Ping, RequestRefused, StopRun
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError, NotNowError
from dougong.records.directory import RunDir
from dougong.records.lease import LeaseSight, has_moved, see_newest
from dougong.records.status import ControllerAddress


class Presence(Enum):
    """What is known of a run's controller."""

    ABSENT = "absent"  # it has left no address: the run has ended, or is lost before it had one
    STARTING = "starting"  # it holds the run's lease and has no address yet
    ALIVE = "alive"  # it answers
    SILENT = "silent"  # its process is there and does not answer: stopped, or hung
    GONE = "gone"  # it is dead
    UNKNOWN = "unknown"  # on another machine, which cannot be reached: nor does it renew its lease

    @property
    def is_there(self) -> bool:
        """Whether the run has a controller, as far as can be known from here; one that is stopped,
        or hangs, is one."""
        return self in (Presence.STARTING, Presence.ALIVE, Presence.SILENT)


def look(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> Presence:
    """Look for a run's controller. Takes a few seconds where nobody answers."""
    lease, known = see_newest(run_dir.path), run_dir.read_controller()
    if lease is None:
        return Presence.ABSENT
    if lease.is_past:
        return Presence.ABSENT if known is None else Presence.GONE
    if known is None:
        return Presence.STARTING if _may_live(run_dir, lease, deadlines) else Presence.ABSENT
    found = _ask(run_dir, known, deadlines)
    if found is Presence.ALIVE:
        return found
    if lease.holder is not None and lease.holder.is_here:
        return Presence.SILENT
    is_renewed = found is Presence.UNKNOWN and _may_live(run_dir, lease, deadlines)
    return Presence.ALIVE if is_renewed else found


def _may_live(run_dir: RunDir, lease: LeaseSight, deadlines: Deadlines) -> bool:
    """Whether the holder's process is on this machine, or its lease is renewed while we look."""
    if lease.holder is not None and lease.holder.is_here:
        return True
    return has_moved(run_dir.path, lease, deadlines.status_fresh_s, deadlines.poll_every_s)


def is_out_of_reach(known: ControllerAddress) -> bool:
    """Whether the controller listens on the loopback of another machine."""
    return known.host.startswith("127.") and known.machine != socket.gethostname()


def ask(
    run_dir: RunDir,
    known: ControllerAddress,
    request: Ping | StopRun | OrderDrill,
    deadlines: Deadlines = DEADLINES,
) -> Acknowledged:
    """Send the controller a request and have it acknowledged. LaunchError when nobody answers, or
    it refuses; NotNowError when it does so until it trains again."""
    path = run_dir.path
    channel = connect((known.host, known.port), known.token, None, deadlines)
    try:
        channel.send(request)
        answer = channel.receive(deadlines.client_answer_s, "client_answer_s")
    except (OSError, EOFError) as error:
        raise LaunchError(f"{path}: the controller did not answer: {error}; try again") from error
    finally:
        channel.close()
    if isinstance(answer, RequestRefused):
        kind = NotNowError if answer.is_for_now else LaunchError
        raise kind(f"{path}: the controller refused: {answer.text}")
    if not isinstance(answer, Acknowledged):
        raise LaunchError(f"{path}: the controller answered {request.kind} with {answer.kind}")
    return answer


def storage_words(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> str:
    """What a controller that answers cannot write; empty for nothing. Its files cannot say it."""
    known = run_dir.read_controller()
    if known is None or is_out_of_reach(known):
        return ""
    try:
        return ask(run_dir, known, Ping(), deadlines).storage
    except LaunchError:  # it has just ended
        return ""


def _ask(run_dir: RunDir, known: ControllerAddress, deadlines: Deadlines) -> Presence:
    """What its address says of it."""
    if is_out_of_reach(known):
        return Presence.UNKNOWN
    try:
        ask(run_dir, known, Ping(), deadlines)
    except UnreachableError as error:
        # The system refuses for a process that is no more; silence may be the network's.
        is_refused = isinstance(error.__cause__, ConnectionRefusedError)
        return Presence.GONE if is_refused else Presence.UNKNOWN
    except LaunchError as error:
        # A process that is stopped is connected to, by the system, and says nothing; anything else
        # is said by somebody who has the port now.
        is_silent = isinstance(error.__cause__, TimeoutError)
        return Presence.SILENT if is_silent else Presence.GONE
    return Presence.ALIVE
