"""Every row of the vocabulary has a test of its own; all of them are drilled by `benchmarks/campaign.py` too, and those
after which a run goes on by random schedules."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from dougong.job.drills.vocabulary import FAULTS, NamedFault

TESTS = Path(__file__).parents[2]
RUN = "launcher/test_run.py::test_a_fault_is_named_and_the_run_goes_on"
HANGS = "launcher/test_hangs.py::test_a_worker_that_hangs_is_suspected_named_and_replaced"
SURVIVORS = "launcher/test_survivors.py::test_a_fault_costs_what_it_has_hit_and_at_most_one_step"
SPOILT = "training/drill/test_spoiler.py::test_a_flipped_bit_changes_the_step_and_those_after_it"
FROZEN = "launcher/test_storage_runs.py::test_storage_that_is_frozen_ends_no_training"
DAMAGED = "launcher/test_run.py::test_a_damaged_newest_checkpoint_is_passed_over"
HERE = "test_campaign.py::test_what_happens_to_processes_is_named"
DISK = "test_campaign.py::test_what_happens_to_storage_is_named_and_ends_nothing"
HOSTS = "test_campaign.py::test_what_happens_to_machines_and_cables_is_named"

PROOFS = {
    "kill": SURVIVORS,
    "segfault": RUN,
    "abort": HERE,
    "leave": RUN,
    "raise": RUN,
    "memory_error": RUN,
    "notice": SURVIVORS,
    "stop": HANGS,
    "hold_interpreter": HANGS,
    "pause": "launcher/test_hangs.py::test_pauses_of_workers_and_agents_are_not_acted_on",
    "slow_cpu": HERE,
    "oom_kill": HERE,
    "nan": "test_non_finite.py::test_the_run_fails_with_the_place_and_is_not_tried_again",
    "flip_weight": SPOILT,
    "flip_gradient": SPOILT,
    "flip_moment": SPOILT,
    "flip_activation": SPOILT,
    "flip_message": SPOILT,
    "kill_agent": SURVIVORS,
    "stop_agent": HERE,
    "kill_fork_server": "launcher/test_run.py::test_the_loss_of_a_fork_server_is_named_and_ends_nothing",
    "stop_fork_server": "launcher/test_hangs.py::test_a_stopped_fork_server_is_suspected_given_up_and_named",
    "zombie_return": HERE,
    "kill_node": "lab/test_nodes.py::test_a_node_that_died_hard_is_taken_by_its_new_id",
    "kill_raylet": "lab/test_head.py::test_a_raylet_that_is_killed_costs_nothing_until_its_agent_is_lost",
    "kill_head": "lab/test_head.py::test_a_run_outlives_ray_by_half_a_minute_and_more",
    "kill_controller": "launcher/test_supervised.py::test_a_killed_controller_is_followed_by_another_that_ends_the_run",
    "stop_controller": "launcher/test_supervised.py::test_a_stopped_controller_is_killed_by_its_command_and_followed",
    "jump_clock": HOSTS,
    "pull_cable_short": HOSTS,
    "pull_cable": "lab/test_nodes.py::test_a_node_that_is_cut_off_ends_its_workers_and_is_not_let_in_again",
    "pull_cable_for_good": "lab/test_cuts.py::test_a_cut_is_suspected_in_a_second_and_named",
    "drop_in": HOSTS,
    "drop_out": HOSTS,
    "slow_link": "lab/test_network.py::test_a_slow_network_gives_the_same_losses_and_no_alarm",
    "lossy_link": HOSTS,
    "fill_run_directory": "launcher/test_storage_runs.py::"
    "test_a_full_disk_ends_no_training_and_everything_is_written_when_there_is_room",
    "fill_checkpoints": "launcher/test_storage_runs.py::test_full_checkpoints_cost_checkpoints_and_no_step",
    "freeze_logs_5": DISK,
    "freeze_logs_15": DISK,
    "freeze_logs_60": DISK,
    "freeze_checkpoints_5": DISK,
    "freeze_checkpoints_15": DISK,
    "freeze_checkpoints_60": DISK,
    "freeze_all_5": FROZEN,
    "freeze_all_15": FROZEN,
    "freeze_all_60": FROZEN,
    "freeze_on_one_node": HOSTS,
    "tear_write": DISK,
    "flip_on_disk": DAMAGED,
    "kill+kill": "launcher/test_survivors.py::test_kills_in_pairs_within_a_recovery",
    "kill+stop": HERE,
    "stop+kill": HERE,
    "kill+kill_agent": HERE,
    "kill_agent+kill": HERE,
    "kill_fork_server+kill": HERE,
    "raise+segfault": HERE,
}


@functools.cache
def names_in(file: Path) -> frozenset[str]:
    found = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_row_has_a_test_that_is_there(fault: NamedFault) -> None:
    file, _, name = PROOFS[fault.name].partition("::")
    assert name in names_in(TESTS / file)


def test_no_proof_is_of_a_row_that_is_gone() -> None:
    assert PROOFS.keys() == {fault.name for fault in FAULTS}
