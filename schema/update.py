"""Write schema/job.schema.json and the tables of docs/job-file.md, docs/accelerators.md and
docs/conform.md from the code: python schema/update.py."""

from __future__ import annotations

from pathlib import Path

from dougong.accelerators import table
from dougong.conform.kit import tolerances
from dougong.job.reference import fill, json_schema

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Replace the files' generated text."""
    page = ROOT / "docs" / "job-file.md"
    page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
    devices = ROOT / "docs" / "accelerators.md"
    devices.write_text(table.fill(devices.read_text(encoding="utf-8")), encoding="utf-8")
    kit = ROOT / "docs" / "conform.md"
    kit.write_text(tolerances.fill(kit.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "schema" / "job.schema.json").write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
