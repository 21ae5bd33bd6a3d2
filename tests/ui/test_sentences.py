"""Every kind of event in one sentence."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from dougong.records.events import Event, from_json
from dougong.ui.sentences import Sentence, describe, failure_words

EVENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "created", "job": "tiny", "generation": 1}, "info", "job tiny"),
    ({"kind": "created", "job": "tiny", "generation": 3}, "info", "resumed: job tiny"),
    (
        {"kind": "agents_started", "agents": [{"node": "a", "island": "x"}, {"node": "b", "island": "y"}]},
        "info",
        "2 agents on a, b",
    ),
    (
        {"kind": "inspected", "family": "qwen3_moe", "parameters": 3_300_000, "experts": 16},
        "info",
        "model qwen3_moe: 3.30 M parameters, 16 experts",
    ),
    (
        {"kind": "fingerprints", "classes": {"east/0": "aa", "west/0": "bb", "east/1": "aa"}, "seconds": 1},
        "info",
        "arithmetic: class aa on east/0-1, class bb on west/0",
    ),
    (
        {
            "kind": "links",
            "generation": 1,
            "links": [
                {
                    "one": "a/0",
                    "other": "b/0",
                    "islands": ["a", "b"],
                    "path": "host-staged",
                    "latency_s": 2e-4,
                    "bytes_per_s": 9.5e8,
                    "facts": "gloo",
                }
            ],
        },
        "info",
        "links: a/0 - b/0: host-staged, 950 MB/s, 0.2 ms; gloo",
    ),
    ({"kind": "fingerprints", "classes": {}, "seconds": 0}, "info", "arithmetic: no fingerprint requested"),
    ({"kind": "spare_stands", "agent": "west-spare-1", "node": "node2"}, "info", "west-spare-1 on node2 stands by"),
    (
        {"kind": "spare_lost", "agent": "west-spare-1", "node": "node2", "reason": "its connection ended"},
        "warning",
        "west-spare-1 on node2 stands by no more: its connection ended; training goes on, and another one is sought",
    ),
    ({"kind": "spare_short", "text": "no room"}, "warning", "no room; training goes on, and room is looked for again"),
    (
        {"kind": "spare_took", "agent": "west-spare-1", "node": "n2", "place": "west", "workers": ["west/0", "west/1"]},
        "good",
        "west-spare-1 on n2 takes the place of agent west, with [west/0-1]",
    ),
    (
        {"kind": "shrunk", "before": 4, "now": 2, "missing": ["west/0", "west/1"], "reason": "no node"},
        "warning",
        "the run goes on with 2 of 4 workers, without [west/0-1]: no node; the bits stay the same",
    ),
    (
        {"kind": "grown", "before": 2, "now": 4, "workers": ["west/0", "west/1"]},
        "good",
        "back to 4 workers: [west/0-1] join the others",
    ),
    ({"kind": "waiting", "text": "2 NPU on beta"}, "warning", "waiting: 2 NPU on beta"),
    ({"kind": "planned", "workers": 2, "lanes": 4, "experts": 1}, "info", "plan: 2 workers, 4 lanes, 1 expert"),
    (
        {
            "kind": "planned",
            "workers": 4,
            "lanes": 4,
            "experts": 8,
            "moved": [{"worker": f"west/{i}", "before": "node1", "now": f"node{2 + i // 2}"} for i in range(3)],
        },
        "info",
        "plan: 4 workers, 4 lanes, 8 experts; west/0-1: node1 -> node2; west/2: node1 -> node3",
    ),
    (
        {"kind": "generation_started", "workers": ["east/0", "east/1"], "resume": "step-000020"},
        "info",
        "generation 2 starts from step-000020 with 2 workers [east/0-1]",
    ),
    (
        {"kind": "generation_started", "workers": ["east/0"], "resume": None},
        "info",
        "generation 2 starts from the beginning with 1 worker [east/0]",
    ),
    (
        {"kind": "generation_started", "workers": ["east/0"], "resume": "step-000020", "step": 27, "in_memory": True},
        "info",
        "generation 2 starts from memory where it is whole, else from step-000020, with 1 worker [east/0]",
    ),
    (
        {"kind": "state_restored", "step": 27, "tiers": {"own": 2 << 20, "peer": 1 << 20}, "seconds": 0.1},
        "info",
        "state of step 27 is there (own memory 2.0 MiB, a peer's memory 1.0 MiB)",
    ),
    (
        {"kind": "survivor_lost", "worker": "east/1", "class": "crash", "cause": "SIGKILL"},
        "error",
        "worker east/1 ended too before the next generation began: crash: SIGKILL",
    ),
    (
        {"kind": "survivor_lost", "agent": "east", "class": "crash", "cause": "its connection ended"},
        "error",
        "agent east ended too before the next generation began: crash: its connection ended",
    ),
    (
        {
            "kind": "recovered",
            "failed": 1,
            "noticed_s": 0.02,
            "decided_s": 0.021,
            "left_s": 0.05,
            "begun_s": 0.051,
            "first_step_s": 0.3,
            "kept": ["east/0", "east/2"],
            "forked": ["east/1"],
            "step": 27,
        },
        "good",
        "recovered from the failure of generation 1: went on from step 27; noticed 0.020 s, decided 0.021 s, "
        "left 0.050 s, begun 0.051 s, first step 0.300 s after the fault; 2 workers kept, 1 forked",
    ),
    (
        {"kind": "checkpoints_set_aside", "step": 20, "names": ["step-000040", "step-000060"], "folder": "aside/1"},
        "warning",
        "the run goes on from step 20: 2 checkpoints set aside in aside/1 (step-000040, step-000060), not deleted",
    ),
    (
        {"kind": "checkpoints_set_aside", "step": 0, "names": ["step-000040"], "folder": "aside/1"},
        "warning",
        "the run begins anew: 1 checkpoint set aside in aside/1 (step-000040), not deleted",
    ),
    (
        {"kind": "stop_requested", "by": "SIGINT", "now": True},
        "warning",
        "SIGINT: the run ends at once, no checkpoint is written",
    ),
    (
        {"kind": "stop_requested", "by": "dougong stop"},
        "warning",
        "stop requested by dougong stop; `dougong stop --now` ends the run at once",
    ),
    ({"kind": "first_step", "step": 21}, "good", "training again at step 21"),
    ({"kind": "first_step", "step": 1, "generation": 1}, "quiet", "first step: 1"),
    (
        {"kind": "steps_recomputed", "first": 21, "last": 29, "earlier": [1]},
        "good",
        "steps 21-29 computed again: the same bits",
    ),
    (
        {
            "kind": "steps_recomputed",
            "first": 21,
            "last": 21,
            "earlier": [1],
            "differs_from": 1,
            "then": "a",
            "now": "b",
        },
        "warning",
        "step 21 computed again: other bits than in generation 1 (ledger a then, b now)",
    ),
    (
        {
            "kind": "steps_recomputed",
            "first": 21,
            "last": 23,
            "earlier": [1],
            "differs_from": 1,
            "then": "a",
            "now": "b",
        },
        "warning",
        "step 23 computed again: other bits than in generation 1 (ledger a then, b now); steps 21-22: the same bits",
    ),
    (
        {"kind": "step_skipped", "step": 7, "loss": 2.5, "grad_norm": float("inf"), "where": "it", "in_a_row": 2},
        "warning",
        "step 7 skipped (loss 2.5, gradient norm inf), 2 in a row; no weight has moved: it",
    ),
    (
        {"kind": "drill", "worker": "east/1", "step": 30, "action": "kill"},
        "warning",
        "drill: kill east/1 as step 30 begins",
    ),
    (
        {"kind": "worker_died", "worker": "east/1", "class": "crash", "cause": "signal 9 (SIGKILL)"},
        "error",
        "worker east/1 died: crash: signal 9 (SIGKILL)",
    ),
    (
        {
            "kind": "device_quarantined",
            "worker": "east/1",
            "accelerator": "cuda",
            "key": "GPU-1",
            "node": "node1",
            "why": "Xid 79",
        },
        "error",
        "device GPU-1 on node1 (Xid 79) is not used again in this run; `fault.quarantine.lift` takes it back",
    ),
    (
        {"kind": "worker_died", "worker": "east/1", "class": "out_of_memory", "cause": "out of memory: 20 GiB"},
        "error",
        "worker east/1 died: out of memory: 20 GiB",
    ),
    (
        {"kind": "worker_died", "worker": "east/1", "class": "corruption", "cause": "CorruptionError: step 3"},
        "error",
        "worker east/1 failed: CorruptionError: step 3",
    ),
    (
        {"kind": "diagnosis", "worker": "east/1", "class": "hang", "cause": "no progress"},
        "error",
        "diagnosis: east/1: hang: no progress",
    ),
    (
        {"kind": "decision", "action": "new_generation", "reason": "1 of 3 restarts"},
        "warning",
        "decision: new generation (1 of 3 restarts)",
    ),
    (
        {"kind": "decision", "action": "replace_by_spare", "reason": "standing by: west-spare-1 on node2"},
        "warning",
        "decision: replace by a spare (standing by: west-spare-1 on node2)",
    ),
    ({"kind": "decision", "action": "fail", "reason": "x"}, "warning", "decision: stop (x)"),
    ({"kind": "decision", "action": "grow_back", "reason": "x"}, "info", "decision: grow back (x)"),
    ({"kind": "checkpoint_started", "step": 20}, "quiet", "checkpoint of step 20 begins"),
    (
        {"kind": "checkpoint_committed", "step": 20, "directory": "step-000020", "bytes": 2**20, "seconds": 0.5},
        "good",
        "checkpoint of step 20 committed (1.0 MiB, 0.50 s)",
    ),
    (
        {"kind": "checkpoint_rejected", "directory": "step-000040", "reason": "digest of a differs"},
        "error",
        "checkpoint step-000040 rejected: digest of a differs",
    ),
    (
        {"kind": "checkpoint_failed", "step": 60, "reason": "disk full", "newest": 40, "in_a_row": 2},
        "error",
        "checkpoint of step 60 not committed, so training on is not saved: "
        "no checkpoint since step 40 (2 in a row failed): disk full",
    ),
    ({"kind": "warning", "text": "slow", "workers": ["east/1", "east/0"]}, "warning", "[east/0-1] slow"),
    ({"kind": "warning", "text": "slow", "workers": []}, "warning", "slow"),
    ({"kind": "phase_started", "phase": "data"}, "quiet", "look at the model and the data ..."),
    ({"kind": "phase_ended", "phase": "imports", "seconds": 5.23}, "info", "imports of torch and transformers: 5.2 s"),
    ({"kind": "phase_ended", "phase": "checkpoint", "seconds": 0.02}, "quiet", "search for a valid checkpoint: 20 ms"),
    ({"kind": "state", "state": "RUNNING"}, "quiet", "state: running"),
    (
        {"kind": "state", "state": "STOPPING"},
        "warning",
        "stopping: the step in progress ends, then a checkpoint is written",
    ),
    ({"kind": "note", "text": "2 tensors not used: mtp.*"}, "info", "2 tensors not used: mtp.*"),
    (
        {"kind": "stop_requested", "by": "SIGINT"},
        "warning",
        "stop requested by SIGINT; a second request ends the run at once",
    ),
    (
        {
            "kind": "step_given_up",
            "limit": "60 s (fault.deadlines.stop_step_s)",
            "checkpoint": "step-000010.g1",
            "workers": [{"name": f"east/{n}", "step": 12, "phase": "exchange"} for n in (0, 1)]
            + [{"name": "west/0", "step": 12, "phase": "forward"}],
        },
        "warning",
        "the step did not end: no worker has moved for 60 s (fault.deadlines.stop_step_s); east/0-1 in exchange of "
        "step 12; west/0 in forward of step 12; the run ends without it, kept is step-000010.g1",
    ),
    (
        {"kind": "step_given_up", "limit": "60 s"},
        "warning",
        "the step did not end: no worker has moved for 60 s; the run ends without it, there is no checkpoint",
    ),
    ({"kind": "finished", "step": 60}, "good", "finished at step 60"),
    ({"kind": "stopped", "step": 31}, "warning", "stopped at step 31"),
    ({"kind": "stopped", "step": 80, "saved": 80}, "warning", "stopped at step 80"),
    (
        {"kind": "stopped", "step": 80, "saved": 50},
        "warning",
        "stopped at step 80 (the newest checkpoint is of step 50: a resume computes 30 steps again)",
    ),
    (
        {"kind": "stopped", "step": 1, "saved": 0},
        "warning",
        "stopped at step 1 (no checkpoint: a resume computes 1 step again)",
    ),
    ({"kind": "failed", "step": 31, "worker": "east/1", "cause": "boom"}, "error", "failed at step 31: east/1: boom"),
    (
        {"kind": "failed", "step": 31, "worker": "east/1", "node": "node1", "cause": "boom"},
        "error",
        "failed at step 31: east/1 on node1: boom",
    ),
    (
        {"kind": "worker_died", "worker": "east/1", "node": "node1", "class": "crash", "cause": "SIGKILL"},
        "error",
        "worker east/1 on node1 died: crash: SIGKILL",
    ),
    (
        {"kind": "diagnosis", "worker": "east/1", "node": "node1", "class": "hang", "cause": "no progress"},
        "error",
        "diagnosis: east/1 on node1: hang: no progress",
    ),
    (
        {"kind": "storage_trouble", "what": "workers' logs", "reason": "no space", "agent": "a", "kept": {"lines": 2}},
        "warning",
        "agent a: workers' logs cannot be written: no space; kept in memory: 2 of lines; training goes on",
    ),
    (
        {"kind": "storage_answers", "what": "the run's records", "seconds": 5.0},
        "good",
        "the run's records can be written again, after 5.0 s; none is lost",
    ),
    (
        {"kind": "checkpoints_left", "reasons": {"step-000010": "a link to /big/10"}},
        "warning",
        "old checkpoints are not deleted: step-000010: a link to /big/10",
    ),
    (
        {"kind": "ray", "part": "head", "is_lost": True, "text": "Ray's head is gone"},
        "warning",
        "Ray's head is gone",
    ),
    (
        {
            "kind": "suspect",
            "culprit": {"kind": "worker", "name": "east/1", "node": "node1"},
            "why": "it is stopped",
            "since_s": 0.8,
            "limit": "3 s",
            "evidence": ["process state T"],
        },
        "warning",
        "suspect: east/1 on node1: it is stopped for 0.80 s (process state T); acted on after 3 s",
    ),
    (
        {"kind": "suspect_cleared", "culprit": {"kind": "worker", "name": "east/1", "node": "node1"}, "seconds": 1.5},
        "info",
        "east/1 on node1 goes on after 1.5 s",
    ),
    ({"kind": "failed", "step": 0, "cause": "no GPU"}, "error", "failed at step 0: no GPU"),
]


@pytest.mark.parametrize(("event", "level", "text"), EVENTS)
def test_describe(event: dict[str, Any], level: str, text: str) -> None:
    assert describe(from_json({"generation": 2, **event})) == Sentence(level, text)  # type: ignore[arg-type]


def test_every_class_of_event_has_a_sentence() -> None:
    union, _ = get_args(Event)
    assert {type(from_json({"generation": 2, **event})) for event, _, _ in EVENTS} == set(get_args(union))


@pytest.mark.parametrize(
    ("failure", "cause", "text"),
    [("crash", "SIGKILL", "crash: SIGKILL"), ("crash", "", "crash"), (None, "boom", "boom"), (None, None, "")],
)
def test_failure_words(failure: str | None, cause: str | None, text: str) -> None:
    assert failure_words(failure, cause) == text
