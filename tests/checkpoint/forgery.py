"""Edits that contradict nothing and whose digests are computed anew, by somebody who means it: a signature finds these,
and nothing else does."""

from __future__ import annotations

import dataclasses

from dougong.checkpoint.disk import digest
from dougong.checkpoint.manifest import Manifest
from tests.checkpoint.corruption import Kind, Scene
from tests.checkpoint.edits import generation_edited, rewrite, seed_edited
from tests.checkpoint.saving import make_not_finite


def forged_tensor(scene: Scene) -> None:
    """Another number, and digests that agree with it."""
    labels = [entry.label for _, entry in Manifest.load(scene.victim).entries() if entry.dtype == "F32"]
    make_not_finite(scene.victim, scene.chance.choice(labels), scene.chance.uniform(2.0, 3.0))


def forged_file(scene: Scene) -> None:
    """Another configuration, and its digest."""
    path = scene.victim / "model/config.json"
    path.write_bytes(path.read_bytes() + b"\n")
    manifest = Manifest.load(scene.victim)
    record = dataclasses.replace(
        manifest.files["model/config.json"], num_bytes=path.stat().st_size, digest=digest(path.read_bytes())
    )
    files = {**manifest.files, "model/config.json": record}
    scene.manifest_file().write_bytes(dataclasses.replace(manifest, files=files).to_bytes())


def forged_seed(scene: Scene) -> None:
    rewrite(scene.victim, lambda body: seed_edited(body, scene.chance))


def forged_generation(scene: Scene) -> None:
    rewrite(scene.victim, lambda body: generation_edited(body, scene.chance))


FORGED: dict[str, Kind] = {kind.__name__: kind for kind in (forged_tensor, forged_file, forged_seed, forged_generation)}
