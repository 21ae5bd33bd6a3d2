"""Ray nodes of this machine, by their processes' words."""

from __future__ import annotations

from dougong.launcher.backends.ray_processes import OWN_FOLDER, LocalNode, local_nodes, node_in, raylets_of

RAYLET = (
    "/venv/site-packages/ray/core/src/ray/raylet/raylet", "--node_id=6b0d64", "--node_ip_address=10.0.0.2",
    "--python_worker_command=python default_worker.py --gcs-address=192.0.2.9:1 --temp-dir=/else",
    "--temp_dir=/tmp/ray", "--gcs-address=10.0.0.1:6379", "--labels=", "--cluster-id=c37c",
)  # fmt: skip


def test_a_raylet_says_its_node_its_head_and_its_folder() -> None:
    node = node_in(RAYLET)
    assert node == LocalNode("6b0d64", "10.0.0.1:6379", "/tmp/ray", "c37c")
    assert not node.is_a_runs_own
    own = node_in([word.replace("/tmp/ray", f"/tmp/{OWN_FOLDER}8x") for word in RAYLET])
    assert own is not None and own.is_a_runs_own


def test_what_is_no_raylet_or_says_no_head_is_left_out() -> None:
    assert node_in(()) is None
    assert node_in(("python", *RAYLET[1:])) is None
    assert node_in([word for word in RAYLET if "gcs-address=10" not in word]) is None
    assert node_in([*RAYLET, "--gcs-address=None"]) is None


def test_looking_asks_nobody() -> None:
    assert all(node.id and node.head for node in local_nodes())
    assert raylets_of("nowhere:1") == []
