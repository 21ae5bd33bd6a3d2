"""The promises on how the code reads: mirrored tests, public names, one thing after another, one name for one thing."""

from __future__ import annotations

import ast
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.test_house import MODULES, ORDER, ROOT, SOURCES, begins, name, tree

# Modules without a test file of their own, and why.
NOT_MIRRORED = {
    "conform.device.chance": "tests/conform/test_defects.py has each of its checks name a seeded defect",
    "conform.device.copies": "as conform.device.chance",
    "conform.device.memory": "as conform.device.chance",
    "conform.device.streams": "as conform.device.chance",
    "conform.operators.blocks": "as conform.device.chance",
    "conform.operators.elements": "as conform.device.chance",
    "conform.operators.places": "as conform.device.chance",
    "conform.operators.products": "as conform.device.chance",
    "conform.operators.sums": "as conform.device.chance",
    "conform.peers.bridge": "as conform.device.chance",
    "conform.peers.collectives": "as conform.device.chance",
    "conform.kit.child": "as conform.device.chance",
    "conform.kit.lines": "what crosses between tests/conform/kit/test_crew.py's processes",
    "control.fork_messages": "every message goes through the wire in tests/control/test_messages.py",
    "control.handshake": "as fork_messages",
    "control.tasks": "as fork_messages",
    "control.worker_messages": "as fork_messages",
    "control.path_messages": "as fork_messages",
    "deepspeed.compile_adam": "tests/deepspeed/test_adam_build.py starts it as the process that it is",
    "doctor.ask.ray_nodes": "tests/lab/test_doctor.py asks nodes of a cluster by it",
    "doctor.facts": "every question and answer goes as text in tests/doctor/node/test_examiner.py and the lab",
    "errors": "classes without code; their exit statuses are tested by tests/cli, pickling by tests/control",
    "launcher.backends.base": "a protocol and a dataclass without code",
    "launcher.controller.actions": "dataclasses without code, all of them expected in test_state_machine.py",
    "launcher.controller.inbound.items": "dataclasses without code, all of them fed in test_state_machine.py",
    "ops.experts.base": "the interface; tests/ops/experts/test_reference.py tests what implements it",
    "ops.experts.triton_swiglu": "tests/ops/experts/test_triton_kernels.py runs it with its kernels",
    "parallel.activations": "dataclasses; tests/models/memory/test_segment_bytes.py makes them",
    "parallel.bridge.base": "the interface; test_host_end.py tests what implements it, test_bridges.py who opens it",
    "parallel.dispatch.handle": "what a call keeps; tests/parallel/dispatch/test_dispatcher.py fills and reads it",
    "parallel.trace.tracer": "tests/training/test_partial_run.py holds its traces against each other",
    "parallel.schedules.af_pipe": "one order each: test_order.py, test_check.py and test_simulate.py take all of them",
    "parallel.schedules.colocated": "as af_pipe",
    "parallel.schedules.serial": "as af_pipe",
    "parallel.segments.cut": "a dataclass; tests/models/test_cut.py makes it",
    "training.memory.source": "the interface; test_state.py reads from both that satisfy it",
    "training.optimizers.base": "the interface; test_adamw.py tests what implements it",
}  # fmt: skip


def test_every_module_is_mirrored_by_a_test_file() -> None:
    """`dougong/data/documents/text.py` is tested by `tests/data/documents/test_text.py`."""
    missing = {
        module.removeprefix("dougong.")
        for module, path in MODULES.items()
        if path.name not in ("__init__.py", "__main__.py") and not mirror_of(path).exists()
    }
    assert missing == set(NOT_MIRRORED)


def mirror_of(path: Path) -> Path:
    inside = path.relative_to(ROOT / "dougong")
    return ROOT / "tests" / inside.parent / f"test_{inside.name}"


# Private names of other people's libraries that tests look at.
FOREIGN = {
    "_C", "_dispatch_has_kernel_for_dispatch_key", "_exit", "_experts_implementation",
    "_forward_hooks",
    "_forward_pre_hooks", "_get_backend", "_get_config_dict", "_keep_in_fp32_modules_strict",
    "_keys_to_ignore_on_save", "_parameters",
    "_register_device_module", "_schema", "_scoped_library", "_timeout", "_weight_conversions",
}  # fmt: skip


def test_tests_use_public_names() -> None:
    """No test reaches for a name of the product that begins with an underscore."""
    private = [
        f"{name(path)}:{line}: {word}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, word in private_names(tree(path))
        if word not in FOREIGN
    ]
    assert not private


def private_names(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of private attributes of other objects, and of private names imported from the product."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and begins(str(node.module), "dougong"):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, word) for word in names if re.match(r"_[^_]", word))


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_one_thing_after_another() -> None:
    """No comprehension inside another or with two `for`, no conditional expression inside another."""
    packed = [
        f"{name(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, (*COMPREHENSIONS, ast.IfExp)) and is_packed(node)
    ]
    assert not packed


def is_packed(node: ast.AST) -> bool:
    if isinstance(node, ast.IfExp):
        return any(isinstance(inner, ast.IfExp) for inner in ast.walk(node) if inner is not node)
    within = any(isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node) if inner is not node)
    return within or len(node.generators) > 1  # type: ignore[attr-defined]


MOST_NODES = 200


def test_functions_are_not_packed() -> None:
    """At most so many syntax nodes in a function, however it is laid out; Triton kernels apart."""
    heavy = [
        f"{name(path)}:{node.lineno}: {node.name} has {num_nodes(node)} nodes"
        for path in SOURCES
        if name(path) != "dougong/ops/experts/triton_kernels.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and num_nodes(node) > MOST_NODES
    ]
    assert not heavy


def num_nodes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Syntax nodes of the body, without inner functions and classes."""
    waiting: list[ast.AST] = list(function.body)
    count = 0
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        count += not isinstance(node, ast.expr_context)
        waiting += ast.iter_child_nodes(node)
    return count


def test_a_type_name_means_one_thing() -> None:
    first: dict[str, str] = {}
    twice = []
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                owner = first.setdefault(node.name.lstrip("_"), name(path))
                twice += [f"{node.name}: {owner} and {name(path)}"] if owner != name(path) else []
    assert not twice


MOST_MODULES_OF_A_ROOM = 17


def test_rooms_are_small() -> None:
    sizes = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert not {name(folder): size for folder, size in sizes.items() if size > MOST_MODULES_OF_A_ROOM}


def test_time_limits_have_one_home() -> None:
    """No module but deadlines.py names a number of seconds, or waits for a number that stands in its code. (How long
    a fault lasts is no limit: its table says it.)"""
    strays = [
        f"{name(path)}:{line}: {words}"
        for path in SOURCES
        if name(path) not in ("dougong/deadlines.py", "dougong/job/drills/vocabulary.py")
        for line, words in seconds_in_code(tree(path))
    ]
    assert not strays


@pytest.mark.parametrize(
    "code",
    [
        "LIMIT_S = 2 * 60",
        "_PAUSE_MS: float = 50",
        "self._quiet_s = 60.0",
        "class Options:\n    timeout_s: float = 600.0",
        "def stop(timeout: Annotated[\n    float, Option(min=1)\n] = 600.0): ...",
        "def view(*, refresh_s: float = 0.25): ...",
        "group.wait(timeout_seconds=1)",
        "thread.join(5)",
        "time.sleep(0.2)",
        "timedelta(minutes=5)",
    ],
)
def test_a_time_limit_elsewhere_is_found(code: str) -> None:
    assert list(seconds_in_code(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["exchange_s: float = 0.0", "Option(min=1)", "left_s = end - now", "queue.get(timeout=limits.kill_s)"]
)
def test_what_is_no_time_limit_is_not_found(code: str) -> None:
    assert not list(seconds_in_code(ast.parse(code)))


WAITS = ("wait", "join", "result", "sleep", "timedelta")


def seconds_in_code(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, code) where a name of seconds is given a number that is not 0, or a wait is."""
    for node in ast.walk(module):
        for given, value in given_values(node):
            if re.search(r"(?i)timeout|_(s|ms|seconds)$", given) and is_a_number(value):
                yield value.lineno, f"{given} = {ast.unparse(value)}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in WAITS:
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            yield from ((node.lineno, ast.unparse(node)) for value in values if is_a_number(value))


def given_values(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of an assignment, of an argument with a default, or of a keyword in a call."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield ast.unparse(target), node.value
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        by_position = zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)
        for argument, default in (*by_position, *zip(node.kwonlyargs, node.kw_defaults, strict=True)):
            if default is not None:
                yield argument.arg, default
    elif isinstance(node, ast.keyword) and node.arg is not None:
        yield node.arg, node.value


def is_a_number(value: ast.expr) -> bool:
    """A number other than 0, or arithmetic of numbers alone."""
    if isinstance(value, ast.BinOp):
        return is_a_number(value.left) and is_a_number(value.right)
    return isinstance(value, ast.Constant) and type(value.value) in (int, float) and value.value != 0


TOP = {"dougong", "tests", "docs", "examples", "benchmarks", "schema", *(room.partition(".")[0] for room in ORDER)}


def test_docs_name_files_that_are_there() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    dangling = [
        f"{name(page)}: {named}"
        for page in pages
        for named in re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.\w+)?)`", page.read_text())
        if named.partition("/")[0] in TOP
        and "NAME" not in named
        and not any((root / named).exists() for root in (ROOT, ROOT / "dougong"))
    ]
    assert not dangling


def test_comments_and_docstrings_name_files_that_are_there() -> None:
    """A path such as `control/messages.py`, from the root, from dougong/ or from the file's own folder."""
    dangling = [
        f"{name(path)}:{line}: {named}"
        for path in WRITTEN
        for line, text in words_of(path)
        for named in re.findall(r"(?<![\w/.-])(?:[\w-]+/)+[\w-]+\.(?:py|md)\b", text)
        if named not in FOREIGN_FILES
        and not any((root / named).exists() for root in (ROOT, ROOT / "dougong", path.parent))
    ]
    assert not dangling


def test_comments_and_docstrings_name_modules_that_are_there() -> None:
    """A dotted name in backticks that begins with a room is a module of it, or what stands in one.

    `dense.gradients` may leave out the rooms around it. Keys of a job file, such as `checkpoint.every`, look the same.
    """
    dangling = [
        f"{name(path)}:{line}: {dotted}"
        for path in WRITTEN
        for line, text in words_of(path)
        for dotted in re.findall(r"`(\w+(?:\.\w+)+)`", text)
        if dotted.partition(".")[0] in ROOM_WORDS
        and not dotted.endswith((".yaml", ".html", ".json"))  # a file of a run
        and not (is_a_name_of_ours(dotted) or is_a_job_key(dotted))
    ]
    assert not dangling


# Files of other people's repositories that a comment names.
FOREIGN_FILES = {"megatron/core/datasets/indexed_dataset.py"}
WRITTEN = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
ROOM_WORDS = {"dougong", *(word for room in ORDER for word in room.split("."))}


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments and docstrings of a file; also of strings that stand alone below a name."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def is_a_name_of_ours(dotted: str) -> bool:
    """Whether it is a module, or a name that a module gives to something, with or without the rooms around it."""
    owner, _, inside = dotted.rpartition(".")
    for module, path in MODULES.items():
        if f".{module}".endswith(f".{dotted}"):
            return True
        if f".{module}".endswith(f".{owner}") and inside in names_given(tree(path)):
            return True
    return False


def names_given(module: ast.Module) -> set[str]:
    """Names of its functions, classes, methods, constants, fields and attributes."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def is_a_job_key(dotted: str) -> bool:
    """Whether the page of the job file has such a section, or such a key in a section."""
    for section in (ROOT / "docs/job-file.md").read_text().split("\n## ")[1:]:
        title = section.partition("\n")[0].strip("`")
        if dotted in (title, *(f"{title}.{key}" for key in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))):
            return True
    return False


def test_the_rooms_in_readme_are_those_of_the_house() -> None:
    """The table names every room, in the order of the house."""
    shown = re.findall(r"^\| `dougong/(\w+)/` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    rooms = dict.fromkeys(room.partition(".")[0] for room in ORDER)
    assert shown == [room for room in rooms if (ROOT / "dougong" / room).is_dir()]
