"""The promises on shape: what the rooms may know, how long things are, and what the package holds.

Each test reads the sources themselves. An exception is a line here with its reason; one that is no longer needed fails.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "dougong").rglob("*.py"))
LINKS = ("launcher", "parallel", "fault", "checkpoint")

MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_FILE = 400
# file -> why it is better long
LONG_FILES: dict[str, str] = {}

# The rooms, lowest first: a module imports from its own room and from rooms further up in this list. Imports inside
# functions, those under TYPE_CHECKING and entry points named as text count like any other.
ORDER = (
    "errors", "error_words", "deadlines", "addresses", "remarks", "bridge_names", "offers",
    "storage",  # what may refuse or not answer is written by a thread of its own
    "ops", "ops.experts",  # deterministic operators
    "accelerators.telemetry",  # what devices say of their health
    "accelerators",  # one small file per kind of device
    "job.yaml", "job.section", "job.parts", "job.optimizers", "job.fault", "job.emulate",
    "job.drills", "job",  # what a user asks for
    "parallel",  # plan, assignment of experts, the tree of lanes
    "parallel.schedules",
    "parallel.comm.threads", "parallel.comm.membership",
    "parallel.comm.wait",  # who the peers are, and waits for them
    "parallel.comm.packing", "parallel.comm.transfer",
    "parallel.bridge",  # between islands without a common library
    "parallel.comm", "parallel.exchange", "parallel.segments", "parallel.trace",
    "parallel.dispatch", "parallel.dense", "parallel.execute", "parallel.traffic",
    "control",  # what controller, agent and worker say to each other
    "control.network",  # machines that hear each other
    "control.worker",  # a worker's end of its line
    "testing",  # a cluster on one machine, for tests and by hand
    "fault",  # from observation to decision
    "models.library",  # what is used of transformers that it does not promise
    "models.stored",  # what a Hugging Face folder holds
    "models.configs",  # the configuration of a family, a folder, a run
    "models",  # how a transformers model is cut
    "models.memory",  # what a micro-batch keeps, found without memory
    "checkpoint.proof",  # what a manifest must be, and who has signed it
    "checkpoint", "checkpoint.lora",
    "records.event", "records",  # what a run leaves behind
    "planner.needs",  # memory and programs of a plan's workers
    "planner",  # from a job and a cluster to a plan
    "ui.goodput", "ui", "ui.report",
    "data.documents",  # texts, before a tokenizer has seen them
    "data.samples",  # which sample is which window: numbers alone
    "data",  # text to tokens
    "data.chats",  # chats to sequences
    "data.sources", "data.image_tokens",  # what a job names
    "data.windows", "data.preview", "data.show",  # which of it a lane reads
    "deepspeed",  # what is taken from DeepSpeed: its CPU Adam, its checkpoints
    "fingerprint",  # a device's arithmetic
    "training.optimizers", "training.results", "training.start", "training.memory",
    "training.integrity",  # numbers against their copies
    "training.drill", "training",
    "conform", "conform.operators", "conform.device", "conform.peers", "conform.steps",
    "conform.kit",  # whether a device is what a run needs
    "launcher.agent.here", "launcher.agent",
    "launcher.kept",  # agents that outlive their controller
    "launcher.backends", "launcher.backends.process",  # the second: Ray's calls, made by a process of its own
    "launcher.signing",  # keys of checkpoints
    "launcher.controller.inbound", "launcher.controller", "launcher",
    "tools.difference", "tools.experts", "tools", "tools.drill",  # proofs, differences, calibration
    "doctor.facts", "doctor.record", "doctor.majority", "doctor.node", "doctor.ask", "doctor.judge",
    "doctor",  # whether nodes are what a run needs
    "cli.options", "cli.doctor", "cli",
)  # fmt: skip

# Libraries that a room must not touch, even inside a function.
MUST_NOT_USE = {
    "accelerators": ("ray", "transformers", "pydantic", "yaml"),
    "job": ("torch", "ray", "transformers"),
    "ops": ("ray", "torch.distributed", "transformers"),
    "parallel": ("ray", "pathlib", "os", "io", "shutil", "tempfile", "subprocess", "multiprocessing", "transformers"),
    "control": ("torch", "ray", "transformers"),
    "fault": ("torch", "transformers"),
    "models": ("ray", "torch.distributed", "socket"),
    "checkpoint": ("ray", "socket", "socketserver", "http", "torch.distributed"),
    "planner": ("torch", "ray", "transformers"),
    "ui": ("torch", "ray", "transformers"),
    "training": ("ray", "subprocess", "multiprocessing", "signal"),
}

CONTROL_PLANE = ("job", "control", "fault", "records", "planner", "ui", "launcher")

# Slow to import: never at the top of a module that the control plane loads.
HEAVY = ("torch", "ray", "transformers", "datasets", "tensorboard")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def room_sources(room: str) -> list[Path]:
    return [path for path in SOURCES if path.is_relative_to(ROOT / "dougong" / room)]


def imported(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file, also inside functions; `from a import b` is a.b."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def room_of(module: str) -> str:
    """`parallel.comm` for dougong.parallel.comm.world; a module of the package itself, or one that ORDER names, is a
    room of its own."""
    inside = module.removeprefix("dougong.")
    return inside if inside in ORDER else inside.rpartition(".")[0] or inside


def known_in(module: str) -> Iterator[tuple[int, str]]:
    """(line, module of ours) for everything of the package that a module imports or names as an entry point."""
    parsed = tree(MODULES[module])
    for line, dotted in imported(parsed):
        owner = dotted if dotted in MODULES else dotted.rpartition(".")[0]
        if owner in MODULES and owner not in (module, "dougong"):
            yield line, owner
    for node in ast.walk(parsed):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = node.value.partition(":")[0]
            if named in MODULES and named not in (module, "dougong"):
                yield node.lineno, named


def begins(dotted: str, prefix: str) -> bool:
    return dotted == prefix or dotted.startswith(prefix + ".")


def test_there_are_sources() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("link", LINKS)
def test_root_names_are_links(link: str) -> None:
    assert (ROOT / link).is_symlink()
    assert os.readlink(ROOT / link) == f"dougong/{link}"


def test_functions_are_short() -> None:
    long = [
        f"{name(path)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert not long


def test_files_are_short() -> None:
    files = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
    long = {name(path) for path in files if len(path.read_text().splitlines()) > MOST_LINES_OF_A_FILE}
    assert long == set(LONG_FILES)


def test_no_module_holds_state() -> None:
    """No `global`, and no empty container at a module's top: it could only be there to be filled."""
    found = []
    for path in SOURCES:
        module = tree(path)
        found += [f"{name(path)}:{node.lineno}" for node in ast.walk(module) if isinstance(node, ast.Global)]
        found += [f"{name(path)}:{node.lineno}" for node in module.body if is_empty_container(node)]
    assert not found


def is_empty_container(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    value = ast.unparse(node.value)
    empty = value in ("[]", "{}", "dict()", "list()", "set()") or "defaultdict(" in value
    return empty and all(isinstance(target, ast.Name) for target in targets)


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"\bos\.(environ|getenv|putenv)|from os import .*environ", "dougong/control/environment.py"),
        (r"torch\.cuda|torch_npu|pynvml|torch\.npu", "dougong/accelerators/"),
    ],
)
def test_one_home_for_each(pattern: str, home: str) -> None:
    strays = [
        f"{name(path)}:{number}"
        for path in SOURCES
        if not name(path).startswith(home)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not strays


def test_every_room_has_its_place() -> None:
    rooms = {room_of(module) for module, path in MODULES.items() if path.name not in ("__init__.py", "__main__.py")}
    assert rooms <= set(ORDER)


def runs_up(module: str, known: str) -> bool:
    """Whether a module imports from a room above its own."""
    return ORDER.index(room_of(known)) > ORDER.index(room_of(module))


def test_no_arrow_runs_up() -> None:
    up = {
        (module.removeprefix("dougong."), known.removeprefix("dougong."))
        for module, path in MODULES.items()
        if path.name not in ("__init__.py", "__main__.py")
        for _, known in known_in(module)
        if MODULES[known].name != "__init__.py" and runs_up(module, known)
    }
    assert not up


def test_an_arrow_that_runs_up_and_a_circle_are_seen() -> None:
    assert runs_up("dougong.job.schema", "dougong.cli.plan") and not runs_up("dougong.cli.plan", "dougong.job.schema")
    assert any(known_in(module) for module in MODULES)
    assert "a" in reached_from("a", {"a": {"b"}, "b": {"a"}}) and "b" not in reached_from("b", {"a": {"b"}, "b": set()})


def test_no_circle_of_modules() -> None:
    known = {module: {owner for _, owner in known_in(module)} for module in MODULES}
    circles = {module.removeprefix("dougong.") for module in MODULES if module in reached_from(module, known)}
    assert not circles


def reached_from(start: str, known: Mapping[str, set[str]]) -> set[str]:
    """All that a module knows, and what those know in turn."""
    reached: set[str] = set()
    waiting = list(known[start])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += known[module]
    return reached


@pytest.mark.parametrize("room", sorted(MUST_NOT_USE))
def test_what_a_room_must_not_use(room: str) -> None:
    used = [
        f"{name(path)}:{line}: {dotted}"
        for path in room_sources(room)
        for line, dotted in imported(tree(path))
        if any(begins(dotted, library) for library in MUST_NOT_USE[room])
    ]
    assert not used


def test_parallel_opens_no_file() -> None:
    opened = [
        f"{name(path)}:{node.lineno}"
        for path in room_sources("parallel")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "Path")
    ]
    assert not opened


def test_everything_is_imported_from_the_package() -> None:
    through_links = [
        f"{name(path)}:{line}: {dotted}"
        for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]
        for line, dotted in imported(tree(path))
        if dotted.split(".")[0] in LINKS
    ]
    assert not through_links


@pytest.mark.parametrize(
    "modules",
    [
        ["dougong.cli.main"],
        [
            "dougong.errors",
            "dougong.parallel.plan",
            "dougong.accelerators.registry",
            "dougong.data.windows",
            *(module for module in MODULES if room_of(module).partition(".")[0] in CONTROL_PLANE),
        ],
    ],
    ids=["cli", "control plane"],
)
def test_the_control_plane_loads_nothing_heavy(modules: list[str]) -> None:
    names = ", ".join(module.removesuffix(".__init__") for module in modules)
    code = f"import {names}, sys; print(*set(sys.modules) & {set(HEAVY)})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_errors_are_one_family() -> None:
    """An error that another module may see is a child of one in errors.py, so that its exit status is known."""
    family = {node.name for node in tree(ROOT / "dougong" / "errors.py").body if isinstance(node, ast.ClassDef)}
    strays = [
        f"{name(path)}:{node.lineno}: {node.name}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and re.fullmatch(r"[A-Z]\w*Error", node.name)
        if node.name not in family and not family & {ast.unparse(base).split(".")[-1] for base in node.bases}
    ]
    assert not strays


def requirements() -> dict[str, str]:
    """Name -> version specifier of everything that pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    parts = [re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?(.*)", line) for line in asked]
    return {part[1].lower(): part[2] for part in parts if part is not None and part[1] != "dougong"}


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-3.10.txt"])
def test_every_requirement_is_pinned(file: str) -> None:
    pinned = pins(file)
    assert set(requirements()) - set(pinned) == {"torch-npu"}
    assert pinned["torch"] == "2.13.0"


def test_lower_ends_are_what_the_oldest_python_runs() -> None:
    oldest = pins("constraints-3.10.txt")
    ends = {name: end.removeprefix(">=") for name, end in requirements().items() if end and name != "torch-npu"}
    assert not {name: (end, oldest[name]) for name, end in ends.items() if not f"{oldest[name]}.".startswith(f"{end}.")}


def test_only_declared_libraries_are_imported() -> None:
    distribution = {
        "yaml": "pyyaml", "pynvml": "nvidia-ml-py", "torch_npu": "torch-npu", "pydantic_core": "pydantic",
        "PIL": "pillow",
    }  # fmt: skip
    known = {*requirements(), "dougong"}
    strays = {
        f"{name(path)}:{line}: {dotted}"
        for path in SOURCES
        for line, dotted in imported(tree(path))
        if (top := dotted.split(".")[0]) not in sys.stdlib_module_names and distribution.get(top, top) not in known
    }
    assert not strays


def test_a_wheel_holds_the_package_and_one_name(tmp_path: Path) -> None:
    for entry in ("dougong", "tests"):
        shutil.copytree(ROOT / entry, tmp_path / entry, ignore=shutil.ignore_patterns("__pycache__"))
    for entry in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / entry, tmp_path / entry)
    for link in LINKS:
        (tmp_path / link).symlink_to(f"dougong/{link}")
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "out" / done.stdout.split()[-1]) as wheel:
        held = set(wheel.namelist())
        entry_points = wheel.read(next(file for file in held if file.endswith("entry_points.txt"))).decode()
    assert {file.split("/")[0].split("-")[0] for file in held} == {"dougong"}
    assert {name(path) for path in SOURCES} | {"dougong/py.typed"} <= held
    assert "dougong = dougong.cli.main:main" in entry_points
