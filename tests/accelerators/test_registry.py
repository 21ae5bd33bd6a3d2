"""Names to accelerators, dougong's own and those that another package offers."""

import sys
from pathlib import Path

import pytest
from dougong.accelerators.registry import (
    accelerator_names,
    check_claims,
    get_accelerator,
    is_accelerator,
    meant_by,
)
from dougong.errors import DeviceError


def offer(folder: Path, value: str, name: str = "toy") -> None:
    """What pip leaves behind for a package that offers an accelerator."""
    info = folder / f"toy_{len(list(folder.iterdir()))}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {info.name.split('-')[0]}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dougong.accelerators]\n{name} = {value}\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toy_device.py").write_text(
        "from dougong.accelerators.base import Accelerator\nfrom dougong.accelerators.cpu import Cpu\n"
        "from dougong.accelerators.generic import GenericAccelerator\n\n"
        "class Toy(Cpu):\n    name = 'toy'\n    resource = 'TOY'\n\nclass Half(Accelerator):\n    name = 'toy'\n"
        "class Plain(GenericAccelerator):\n    name = 'toy'\nclass Other(Toy):\n    name = 'other'\n"
        "class Uncounted(GenericAccelerator):\n    name = device_type = backend = 'toy'\n    resource = 'TOY'\n"
        "    visible_devices_variable = None\n"
        "class Wanting(Toy):\n    def __init__(self, x):\n        pass\n"
        "class Narrow(Toy):\n    def worker_environment(self, threads):\n        return {}\n"
        "class Renamed(Toy):\n    def open(self, number, deterministic=True):\n        return None\n"
        "class NoMethod(Toy):\n    describe = {'name': 'toy'}\n"
    )
    (tmp_path / "toy_broken.py").write_text("raise OSError('libtoy.so: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


OWN = ("cpu", "cuda", "rocm", "npu", "mlu", "musa", "gcu", "xpu")


@pytest.mark.parametrize("name", OWN)
def test_own_names(name: str) -> None:
    assert get_accelerator(name).name == name


def test_a_package_can_add_one(package: Path) -> None:
    offer(package, "toy_device:Toy")
    assert get_accelerator("toy").resource == "TOY"
    assert accelerator_names() == (*OWN, "toy")
    assert is_accelerator("toy") and is_accelerator("npu") and not is_accelerator("toyy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "accelerator toy: not known; known are cpu, cuda, rocm, npu"),
        (
            ["toy_device:Toy"] * 2,
            r"offered by toy_2 1.0 \(toy_device:Toy\) and toy_3 1.0 \(.*\); uninstall all but one",
        ),
        (["toy_device:Missing"], "entry point toy_device:Missing does not load"),
        (["no_such_module:Toy"], r"does not load \(ModuleNotFoundError: .*no_such_module"),
        (["toy_broken:Toy"], r"does not load \(OSError: libtoy.so: cannot open shared object file\)"),
        (
            ["toy_device:Half"],
            r"toy_device:Half is not whole: it lacks describe\(\), device_count\(\), open\(\), worker_environment\(\), "
            "resource, backend, visible_devices_variable; .*GenericAccelerator",
        ),
        (
            ["toy_device:Uncounted"],
            r"Uncounted of toy_2 1.0: it states no device_files, and has no names\(\) of its own, by which its devices "
            "are counted: every machine would have 0 of them; correct it in the package",
        ),
        (["toy_device:Plain"], "it lacks resource, backend, visible_devices_variable, device_type; "),
        (["toy_device:Wanting"], r"Wanting\(\) is called without arguments \(missing a required argument: 'x'\)"),
        (
            ["toy_device:Narrow"],
            r"worker_environment\(self, threads\) is called as worker_environment\(self, threads: .*; correct it",
        ),
        (["toy_device:Renamed"], r"open\(self, number, deterministic=True\) is called as open\(self, index: "),
        (["toy_device:NoMethod"], "describe is {'name': 'toy'}, and must be a method; correct it"),
        (["toy_device:Other"], "calls itself other; give the entry point and the class one name"),
        (["pathlib:Path"], "not a subclass of dougong.accelerators.base.Accelerator"),
    ],
)
def test_refusals(values: list[str], message: str, package: Path) -> None:
    for value in values:
        offer(package, value)
    with pytest.raises(DeviceError, match=message):
        get_accelerator("toy")


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (
            "refused = {'TOY_FAST': 'adds in any order'}",
            r"refused is \{'TOY_FAST': .*\} \(dict\), and must be a tuple of",
        ),
        ("defaults = [('A', 'B')]", r"defaults is \[\('A', 'B'\)\] \(list\), and must be a tuple of `facts.Default\("),
        (
            "interface_form = '{0.x}{}'",
            r"interface_form is '\{0.x\}\{\}' \(str\), and must be text with one `\{\}`, and",
        ),
        ("agreed_variables = 'TOY_ALGO'", r"agreed_variables is 'TOY_ALGO' \(str\), and must be a tuple of texts"),
    ],
)
def test_a_fact_of_another_form_is_refused_with_its_package(fact: str, message: str, package: Path) -> None:
    (package / "toy_wrong.py").write_text(
        f"from toy_device import Toy\n\nclass Wrong(Toy):\n    {fact}\n    tool = None\n"
    )
    sys.modules.pop("toy_wrong", None)
    offer(package, "toy_wrong:Wrong")
    with pytest.raises(DeviceError, match=f"entry point toy_wrong:Wrong of toy_\\d 1.0: {message}.*; tool is None"):
        get_accelerator("toy")


def test_a_package_that_takes_a_name_of_dougong_s_own_is_refused(package: Path) -> None:
    check_claims("npu")
    offer(package, "toy_device:Toy", "npu")
    with pytest.raises(
        DeviceError, match=r"accelerator npu: offered by toy_2 1.0 \(toy_device:Toy\), .*own name; unin"
    ):
        check_claims("npu")


@pytest.mark.parametrize(
    ("word", "name"),
    [("GPU", "cuda"), ("amd", "rocm"), ("Ascend", "npu"), ("CPU", "cpu"), (" cpu", "cpu"), ("cpus", "cpu"),
     ("cdua", "cuda"), ("Nvidia", "cuda"), ("TOI", "toy"), ("toaster", None), ("", None)],
)  # fmt: skip
def test_words_that_people_write(word: str, name: str | None, package: Path) -> None:
    offer(package, "toy_device:Toy")
    assert meant_by(word) == name
    if name is not None:
        with pytest.raises(
            DeviceError, match=rf"accelerator {word}: not known \(did you mean {name}\?\); known are cpu"
        ):
            get_accelerator(word)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "colective_backend = 'toyccl'",
            r"colective_backend is no fact that anybody asks for \(did you mean backend\?\); begin the name of what",
        ),
        ("exact_switch = {}", r"exact_switch is no fact .*\(did you mean exact_switches\?\)"),
        (
            "sdk = '/opt/toy'",
            r"sdk is no fact that anybody asks for; begin the name of what is the package's own with an",
        ),
        ("def discribe(self): return {}", r"discribe is no method that anybody asks for \(did you mean describe\?\)"),
        ("tells_health = True", r"tells_health is True, and there is no telemetry\(\) and no device_keys\(\); correct"),
        ("def telemetry(self): return None", r"telemetry\(\) is there, and tells_health is not True, so that nobody"),
        (
            "fused_operators = ('experts.nothing',)",
            "fused_operators is .*, and must be a tuple of modules of `dougong.ops`",
        ),
        (
            "fused_operators = ('experts.triton_swiglu',)",
            r"fused_operators is .*, and there is no expert_operators\(\)",
        ),
        (
            "exact_switches = {'torch.backends.toy': False}",
            "exact_switches is .*, and must be a mapping of places in torch",
        ),
        (
            "def __init__(self): raise OSError('no card')",
            r"toy_\d 1.0: Wrong\(\) has raised OSError: no card; correct it in",
        ),
    ],
)
def test_what_would_be_left_unread_is_refused(body: str, told: str, package: Path) -> None:
    (package / "toy_unread.py").write_text(
        f"from toy_device import Toy\n\nclass Wrong(Toy):\n    vendor_version = staticmethod(lambda: 1)\n    {body}\n"
    )
    sys.modules.pop("toy_unread", None)
    offer(package, "toy_unread:Wrong")
    with pytest.raises(DeviceError, match=f"entry point toy_unread:Wrong of .*{told}") as caught:
        get_accelerator("toy")
    assert "vendor_version" not in str(caught.value), "a helper of the package's own"


def test_what_a_method_returns_is_held_where_it_is_called(package: Path) -> None:
    (package / "toy_returns.py").write_text(
        "from toy_device import Toy\n\n"
        "class Wrong(Toy):\n    def worker_environment(self, threads, deterministic=True):\n"
        "        super().worker_environment(threads)\n"
    )
    sys.modules.pop("toy_returns", None)
    offer(package, "toy_returns:Wrong")
    made = get_accelerator("toy")
    assert (type(made).__name__, type(made).__module__, made.describe()["cores"] != "") == (
        "Wrong",
        "toy_returns",
        True,
    )
    with pytest.raises(
        DeviceError,
        match=r"^accelerator toy: entry point toy_returns:Wrong of toy_\d 1.0: worker_environment\(\) has returned "
        r"None \(NoneType\), and must return a mapping of variables .* to texts, .*; correct it in the package \(CONTR",
    ):
        made.worker_environment(1)
