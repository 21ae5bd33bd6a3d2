"""`fault.deadlines`: the time limits that a site may set in its job file."""

from __future__ import annotations

from typing import Any

from dougong.deadlines import DEADLINES, SETTABLE
from dougong.job.section import Seconds, Section, Silence, physical


def _deadline(name: str) -> Any:
    default = getattr(DEADLINES, name)
    return physical(None, f"{SETTABLE[name]}; seconds; null: {default:g}")


class DeadlineKeys(Section):
    """How long may be waited for what, where a site's storage or network needs other limits."""

    agents_join_s: Seconds | None = _deadline("agents_join_s")
    path_s: Seconds | None = _deadline("path_s")
    paths_s: Seconds | None = _deadline("paths_s")
    agents_ready_s: Seconds | None = _deadline("agents_ready_s")
    inspection_s: Seconds | None = _deadline("inspection_s")
    fingerprint_s: Seconds | None = _deadline("fingerprint_s")
    rendezvous_s: Seconds | None = _deadline("rendezvous_s")
    link_s: Seconds | None = _deadline("link_s")
    message_s: Seconds | None = _deadline("message_s")
    hang_s: Seconds | None = _deadline("hang_s")
    warm_up_s: Seconds | None = _deadline("warm_up_s")
    build_s: Seconds | None = _deadline("build_s")
    evaluation_s: Seconds | None = _deadline("evaluation_s")
    stall_warning_s: Seconds | None = _deadline("stall_warning_s")
    last_worker_s: Seconds | None = _deadline("last_worker_s")
    agent_silence_s: Silence | None = _deadline("agent_silence_s")
    node_return_s: Seconds | None = _deadline("node_return_s")
    storage_wait_s: Seconds | None = _deadline("storage_wait_s")
    resume_s: Seconds | None = _deadline("resume_s")
    shared_file_s: Seconds | None = _deadline("shared_file_s")
    leave_s: Seconds | None = _deadline("leave_s")
    stop_step_s: Seconds | None = _deadline("stop_step_s")
    find_checkpoint_s: Seconds | None = _deadline("find_checkpoint_s")
    stage_checkpoint_s: Seconds | None = _deadline("stage_checkpoint_s")
    commit_checkpoint_s: Seconds | None = _deadline("commit_checkpoint_s")
    records_end_s: Seconds | None = _deadline("records_end_s")
