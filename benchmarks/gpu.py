"""What has to be looked at on a GPU that is lent for ten minutes, row by row: `make gpu GPU_PYTHON=python3`.

    python benchmarks/gpu.py [--part 1|2|3|4] [--only ROW ...] [--accelerator cuda|cpu] [--wheels FOLDER] [--out FILE]

It runs by the interpreter that starts it, with the torch that this one has, installs nothing, and needs no network and
no Ray. Each row is a process of its own with a time limit, and what came of it is written into `benchmarks/gpu.md`
before the next one begins. Each part ends within ten minutes. Packages that the interpreter lacks are taken from
wheels in a folder, which are unpacked beside it for the time of the run. Without a GPU every row says `not run`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "gpu.md"
PART_S = 590.0
"""Of all rows of a part together, at most."""
NEEDED = ("torch", "numpy", "transformers", "safetensors", "pydantic", "typer", "rich", "yaml", "greenlet", "jinja2")
_TAIL = 300
_TITLE = "# On a GPU"
_HEAD = (
    "`make gpu`, by benchmarks/gpu.py. Each row says where it was run; one that says `not run` has not been seen on "
    "any device."
)
_NOT_NOTED = "not noted"
"""Where rows of a page were run that an earlier form of this program has written."""


@dataclass(frozen=True)
class Row:
    """One look: `words` after the interpreter; `{device}` in them is the accelerator. `on_cpu`: it says something on a
    processor too. `module`: without it there is nothing to run."""

    name: str
    part: int
    limit_s: float
    looks_at: str
    words: tuple[str, ...]
    on_cpu: bool = True
    module: str = ""


def _own(name: str) -> tuple[str, ...]:
    return ("benchmarks/gpu_rows.py", name, "--accelerator", "{device}")


_PYTEST = ("-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider")
ROWS = (
    Row("versions", 1, 40, "torch, its libraries, the device, a compiler", _own("versions")),
    Row("attention", 1, 100, "20 backwards give one answer, by form and length; the price", _own("attention")),
    Row("adamw", 1, 40, "3 steps, save, load, 1 step equal 4 steps", _own("adamw")),
    Row("kernels", 1, 110, "the tests of the kernels", (*_PYTEST, "-m", "gpu", "tests/ops"), False, "pytest"),
    Row("grouped", 1, 120, "speed of the experts' kernels; bits with other neighbours",
        ("benchmarks/grouped.py", "--tokens", "4096", "--rounds", "5"), False, "triton"),
    Row("linear", 1, 60, "bits of products over where their inputs begin", _own("linear")),
    Row("rows", 1, 40, "bits of row sums over the number of rows; ours over the same", _own("rows")),
    Row("cumsum", 1, 40, "what is exempt from the strict switch has one answer", _own("cumsum")),
    Row("waits", 1, 40, "what a wait with a limit costs the host, against one without", _own("waits"), False),
    Row("job", 2, 280, "a job twice, with a worker killed, and resumed: the same bits", _own("job")),
    Row("golden", 2, 60, "golden losses of this kind of device", ("-m", "tests.golden.record", "--device", "{device}"),
        False),
    Row("islands", 2, 100, "attention on the device, experts on a processor, and the reverse", _own("islands")),
    Row("syncs", 2, 50, "waits of the host for the device in a step, by place", _own("syncs"), False),
    Row("price", 2, 90, "a step with determinism: layout against off", _own("price")),
    Row("shared", 3, 70, "two workers on one device", _own("shared"), False),
    Row("memory", 3, 200, "most memory over the plan's; layers that run again, tensors that come and go: the same bits",
        _own("memory")),
    Row("audit", 3, 80, "steps that another worker computes again on the same device", _own("audit"), False),
    Row("conform", 3, 240, "the conformance report", ("-m", "dougong", "conform", "--accelerator", "{device}")),
    Row("saves", 4, 200, "what a save holds training up for; the step beside its writing", _own("saves")),
    Row("step", 4, 300, "a step's time over a plain loop's, of two layers of Qwen3-30B-A3B's width", _own("step")),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a row, `where` it ran: `ran`, `failed`, `too slow` or `not run`; `words`: its figures, or why."""

    row: Row
    state: str
    words: str
    seconds: float = 0.0
    where: str = ""


def run_row(row: Row, device: str, environment: dict[str, str], times_limit: float = 1.0) -> Outcome:
    """Run it to its end, or to so many times its limit."""
    reason = why_not(row, device)
    if reason:
        return Outcome(row, "not run", reason)
    command = [sys.executable, *(word.replace("{device}", device) for word in row.words)]
    begun, limit_s = time.monotonic(), row.limit_s * times_limit
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        return Outcome(row, "too slow", f"ended after {limit_s:g} s; {_last(_text(error.stdout))}", limit_s)
    seconds = time.monotonic() - begun
    if ended.returncode:
        return Outcome(row, "failed", _last(ended.stderr or ended.stdout), seconds)
    return Outcome(row, "ran", _figures(ended.stdout), seconds)


def why_not(row: Row, device: str) -> str:
    """Why a row cannot run here; empty where it can."""
    if device == "cpu" and not row.on_cpu:
        return "says nothing on a processor"
    if device != "cpu" and not _has_device(device):
        return f"no {device} device is here"
    if row.module and importlib.util.find_spec(row.module) is None:
        return f"{row.module} is not installed"
    return ""


def _has_device(device: str) -> bool:
    import torch

    kind = torch.accelerator.current_accelerator()
    return kind is not None and kind.type == device and torch.accelerator.device_count() > 0


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:_TAIL] if lines else "it said nothing"


def _figures(output: str) -> str:
    """The sentences of a row of ours, which prints them as JSON; of another program its last line."""
    try:
        found = json.loads(output.splitlines()[-1])
        return "; ".join(str(sentence) for sentence in found)
    except (ValueError, IndexError, TypeError):
        return _last(output)


def table(outcomes: Iterable[Outcome]) -> str:
    """The page."""
    lines = [
        _TITLE,
        "",
        _HEAD,
        "",
        "| row | what is looked at | | seconds | where | found |",
        "|---|---|---|---|---|---|",
    ]
    for found in outcomes:
        where, words = found.where.replace("|", "/"), found.words.replace("|", "/")
        begun = f"| {found.row.name} | {found.row.looks_at} | {found.state} | {found.seconds:.1f} |"
        lines.append(f"{begun} {where} | {words} |")
    return "\n".join(lines) + "\n"


def place(device: str) -> str:
    """Where this is, which is half of what a figure says; empty where no such device is."""
    import torch

    if device != "cpu" and not _has_device(device):
        return ""
    name = platform.processor() or platform.machine()
    if device != "cpu":
        name = str(torch.get_device_module(device).get_device_name(0))
    return f"{device}: {name}; Python {platform.python_version()}, torch {torch.__version__}"


def refuse_without_torch() -> None:
    """What is looked at is the torch of this interpreter: without one there is nothing to run."""
    instead = "name the interpreter of the machine's torch: make gpu GPU_PYTHON=PATH"
    try:
        importlib.import_module("torch")
    except ImportError as error:
        sys.exit(f"{sys.executable} has no torch that loads ({error}); {instead}, or GPU_WHEELS=FOLDER with its wheel")
    except OSError as error:
        sys.exit(f"{sys.executable}: its torch does not load ({error}); {instead}")


def unpacked(folder: Path | None, into: Path) -> list[str]:
    """The path at which wheels of `folder` can be imported, where the interpreter lacks a package."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if "torch" in missing and folder is None:
        refuse_without_torch()
    if not missing:
        return []
    if folder is None:
        sys.exit(f"{sys.executable} lacks {', '.join(missing)}: name a folder of their wheels, GPU_WHEELS=FOLDER")
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(into)
    left = [name for name in missing if not list(into.glob(f"{name}*"))]
    if left:
        sys.exit(f"{folder} has no wheel of {', '.join(left)}")
    sys.path.insert(0, str(into))
    return [str(into)]


def known_before(file: Path, rows: Sequence[Row]) -> dict[str, Outcome]:
    """What the page says of rows that are not looked at now: the other parts."""
    if not file.is_file():
        return {}
    by_name = {row.name: row for row in rows}
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if len(cells) == 5:
            cells.insert(4, "" if cells[2] == "not run" else _NOT_NOTED)
        if len(cells) == 6 and cells[0] in by_name:
            with contextlib.suppress(ValueError):  # changed by hand: it is looked at anew
                found[cells[0]] = Outcome(by_name[cells[0]], cells[2], cells[5], float(cells[3]), cells[4])
    return found


def why_no_page(file: Path) -> str:
    """Why the page cannot be written there, in words after its name; empty where it can. What is there stays."""
    if not file.parent.is_dir():
        return f"{file.parent} is no folder"
    if file.is_dir():
        return "is a folder; name a file in it"
    if file.exists() and not file.is_file():
        return "is no plain file"
    try:
        if file.is_file() and not file.read_text(encoding="utf-8").startswith(_TITLE) and file.stat().st_size:
            return "holds something else, which would be lost; name another file"
        # Permissions do not tell: a read-only or a full disk is not asked by them.
        with tempfile.TemporaryFile(dir=file.parent) as tried:
            tried.write(bytes(1 << 16))
        if file.is_file():
            file.open("a").close()
    except UnicodeDecodeError:
        return "holds something else, which would be lost; name another file"
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return ""


def refuse_unknown(parser: argparse.ArgumentParser, device: str) -> None:
    """End with exit status 2 for an accelerator that is none."""
    sys.path.insert(0, str(ROOT))
    try:
        from dougong.accelerators.registry import get_accelerator
        from dougong.errors import DeviceError
    except ImportError:
        return  # what is missing is told row by row
    try:
        get_accelerator(device)
    except DeviceError as error:
        parser.error(f"--accelerator: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, choices=sorted({row.part for row in ROWS}))
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=[row.name for row in ROWS])
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--times-limit", type=float, default=1.0, help="more time a row, on a busy machine")
    options = parser.parse_args()
    device = options.accelerator
    refuse_unknown(parser, device)
    if options.wheels is not None and not options.wheels.is_dir():
        parser.error(f"--wheels {options.wheels}: no such folder")
    why = why_no_page(options.out)
    if why:
        parser.error(f"--out {options.out}: {why}")
    with tempfile.TemporaryDirectory(prefix="dougong-wheels-") as folder:
        given = filter(None, [os.environ.get("PYTHONPATH")])
        path = [str(ROOT), *unpacked(options.wheels, Path(folder))]
        refuse_without_torch()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *given])}
        outcomes, where = known_before(options.out, ROWS), place(device)
        for row in ROWS:
            if (options.part or row.part) != row.part or row.name not in (options.only or (row.name,)):
                continue
            found = run_row(row, device, environment, options.times_limit)
            before = outcomes.get(row.name)
            # What has been seen on a device is not lost where there is none.
            if found.state != "not run" or before is None or before.state == "not run":
                outcomes[row.name] = found if found.state == "not run" else dataclasses.replace(found, where=where)
            print(f"{row.name}: {found.state}, {found.seconds:.1f} s: {found.words}", flush=True)
            # At once: a lent machine may be taken back at any time.
            in_order = [outcomes[one.name] for one in ROWS if one.name in outcomes]
            options.out.write_text(table(in_order), encoding="utf-8")


if __name__ == "__main__":
    main()
