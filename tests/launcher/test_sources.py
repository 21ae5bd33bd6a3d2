"""What a run began with, as its directory tells."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dougong.checkpoint.manifest import Manifest
from dougong.control.run_sources import RunSources
from dougong.launcher.sources import known_sources
from dougong.records.directory import RunDir
from dougong.records.kept_sources import keep_sources


def test_what_a_run_began_with_is_its_own_record_or_its_newest_checkpoints(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run")
    assert known_sources(run_dir) is None
    sources = RunSources({"hidden_size": 8}, "a.B", "d")
    for step, metadata in ((5, {"sources": dataclasses.asdict(sources)}), (10, None)):
        checkpoint = run_dir.checkpoints / f"step-{step:06d}"
        checkpoint.mkdir()
        text = b"damaged" if metadata is None else Manifest(step, 1, metadata, {}).to_bytes()
        (checkpoint / "manifest.json").write_bytes(text)
    assert known_sources(run_dir) == sources
    keep_sources(run_dir, RunSources({}, "a.C", "e"))
    assert known_sources(run_dir) == RunSources({}, "a.C", "e")
