"""Edits of a manifest's body, and the digest computed anew, as anybody can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from dougong.checkpoint.directories import MANIFEST
from dougong.checkpoint.disk import digest


def rewrite(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the manifest's body and compute its digest anew, as anybody can."""
    path = directory / MANIFEST
    document = json.loads(path.read_bytes())
    edit(document["body"])
    text = json.dumps(document["body"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["digest"] = digest(text.encode())
    path.write_text(json.dumps(document))


def seed_edited(body: dict[str, Any], chance: Random) -> None:
    body["header"]["seed"] += chance.randint(1, 9)


def generation_edited(body: dict[str, Any], chance: Random) -> None:
    body["generation"] += chance.randint(1, 9)


def other_step(body: dict[str, Any], chance: Random) -> None:
    body["step"] += chance.choice([-1, 1, 100])


def file_left_out(body: dict[str, Any], chance: Random) -> None:
    del body["files"][chance.choice([name for name in body["files"] if name.endswith(".safetensors")])]


def entry_of(body: dict[str, Any], chance: Random) -> list[Any]:
    found: list[Any] = chance.choice([entry for file in body["files"].values() for entry in file.get("tensors", ())])
    return found


def shape_edited(body: dict[str, Any], chance: Random) -> None:
    entry_of(body, chance)[6].append(chance.randint(2, 4))


def shape_turned(body: dict[str, Any], chance: Random) -> None:
    """As many numbers, in another shape: of a tensor that has rows to give away."""
    entries = [entry for file in body["files"].values() for entry in file.get("tensors", ())]
    shape = chance.choice([entry[6] for entry in entries if len(entry[6]) == 2 and not entry[6][0] % 4])
    shape[:] = [shape[0] // 4, shape[1] * 4]


def hostile_name(body: dict[str, Any], chance: Random) -> None:
    """A file's name of which no operating system may be asked."""
    name = chance.choice(
        ["model/\0x", "", ".", "model/", "model//config.json", "a/" * 3000 + "b", "x" * 300, "\x1b[2J"]
    )
    body["files"][name] = {"bytes": 0, "digest": "00"}


def dtype_edited(body: dict[str, Any], chance: Random) -> None:
    entry_of(body, chance)[5] = chance.choice(["F64", "F16", "U8", "F33"])


def tensor_listed(body: dict[str, Any], chance: Random) -> None:
    body["logical"]["dense"]["model.extra.weight"] = [chance.randint(1, 9)]


def tensor_renamed(body: dict[str, Any], chance: Random) -> None:
    entries = [e for file in body["files"].values() for e in file.get("tensors", ()) if e[0] != "model"]
    chance.choice(entries)[1] += ".extra"


def named_twice(body: dict[str, Any], chance: Random) -> None:
    file = chance.choice([file for file in body["files"].values() if len(file.get("tensors", ())) > 1])
    first, second = chance.sample(file["tensors"], 2)
    first[:3] = second[:3]
