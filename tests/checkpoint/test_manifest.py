"""The manifest guards itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.checkpoint.disk import digest
from dougong.checkpoint.manifest import Entry, FileRecord, Manifest, ModelTensors
from dougong.errors import CheckpointError


def entry(name: str, offset: int, num_bytes: int = 8, row: int | None = None) -> Entry:
    return Entry("model", name, row, offset, num_bytes, "F32", (num_bytes // 4,), digest(b""))


def small(files: dict[str, FileRecord] | None = None) -> Manifest:
    record = FileRecord(32, None, (16, digest(b"h")), (entry("a", 16), entry("b", 24)))
    header = {"seed": 1234, "rate": 3e-3, "name": "\u6597\u62f1"}
    files = files or {"model/x.safetensors": record, "model/config.json": FileRecord(2, "00")}
    return Manifest(20, 1, header, files, ModelTensors({"a": (2,), "b": (2,)}))


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(small().to_bytes())
    assert Manifest.load(tmp_path) == small()


def test_no_flipped_bit_and_no_truncation_passes(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    whole = small().to_bytes()
    for byte in range(len(whole)):
        for bit in {byte % 8, (byte + 3) % 8}:
            damaged = bytearray(whole)
            damaged[byte] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
                Manifest.load(tmp_path)
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
            Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (FileRecord(32, None, None, (entry("a", 0, 32),)), "nobody wrote its header"),
        (FileRecord(32, None, (16, ""), (entry("a", 16),)), "its tensors end at byte 24, the file at 32"),
        (FileRecord(32, None, (16, ""), (entry("a", 24),)), "bytes 16 to 24 belong to nobody (before a)"),
        (FileRecord(32, None, (16, ""), (entry("a", 16), entry("b", 16, 16))), "bytes 16 to 24 are written twice"),
        (FileRecord(32, None, (16, ""), (entry("a", 16, 24),)), "its tensors end at byte 40, the file at 32"),
    ],
)
def test_a_file_must_be_covered_exactly_once(record: FileRecord, reason: str, tmp_path: Path) -> None:
    assert reason in str(record.gap())
    (tmp_path / "manifest.json").write_bytes(small({"model/x.safetensors": record}).to_bytes())
    with pytest.raises(CheckpointError, match=r"model/x\.safetensors"):
        Manifest.load(tmp_path)


def test_empty_tensors_leave_no_gap() -> None:
    entries = (entry("b", 16, 8), entry("empty", 16, 0), entry("also", 24, 0))
    assert FileRecord(24, None, (16, ""), entries).gap() is None


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "model/../../x"])
def test_a_manifest_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(small({name: FileRecord(0, "00")}).to_bytes())
    with pytest.raises(CheckpointError, match="leads out of the directory"):
        Manifest.load(tmp_path)


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    document = json.loads(small().to_bytes())
    document["format"] = "dougong.checkpoint/9"
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="dougong.checkpoint/9"):
        Manifest.load(tmp_path)


def test_a_manifest_of_an_older_release_is_read(tmp_path: Path) -> None:
    """The text as it was written before the words for it changed: "header" and "logical"; and before "held"."""
    rows = (
        '["model","w",null,8,12,"F32",[3],"aa"],["model","up",0,20,80,"F32",[4,5],"bb"],'
        '["model","up",1,100,80,"F32",[4,5],"cc"]'
    )
    body = (
        '{"files":{"model/config.json":{"bytes":2,"digest":"00"},"model/x.safetensors":{"bytes":180,"header":[8,"dd"],'
        f'"tensors":[{rows}]}}}},"generation":2,"header":{{"data":{{"step":5}},'
        '"ledger":"ab"},"keep_float32":["w"],"logical":{"dense":{"w":[3]},"experts":{"s.up":[2,4,5]}},"step":5}'
    )
    text = f'{{"format":"dougong.checkpoint/1",\n"digest":"{digest(body.encode())}",\n"body":{body}}}\n'
    (tmp_path / "manifest.json").write_text(text)
    manifest = Manifest.load(tmp_path)
    assert (manifest.step, manifest.generation, manifest.keep_float32) == (5, 2, ("w",))
    assert manifest.metadata == {"data": {"step": 5}, "ledger": "ab"}
    assert manifest.tensors == ModelTensors({"w": (3,)}, {"s.up": (2, 4, 5)})
    assert list(manifest.tensors.logical()) == [("w", (3,)), ("s.up[0]", (4, 5)), ("s.up[1]", (4, 5))]
    assert manifest.to_bytes().decode() == text
