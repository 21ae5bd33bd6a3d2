"""Names to accelerators, dougong's own and those that another package offers."""

from pathlib import Path

import pytest
from dougong.accelerators.registry import accelerator_names, get_accelerator, is_accelerator
from dougong.errors import DeviceError


def offer(folder: Path, value: str) -> None:
    """What pip leaves behind for a package that offers the accelerator `toy`."""
    info = folder / f"toy_{len(list(folder.iterdir()))}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {info.name.split('-')[0]}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dougong.accelerators]\ntoy = {value}\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toy_device.py").write_text(
        "from dougong.accelerators.base import Accelerator\nfrom dougong.accelerators.cpu import Cpu\n\n"
        "class Toy(Cpu):\n    name = 'toy'\n    resource = 'TOY'\n\nclass Half(Accelerator):\n    name = 'toy'\n"
    )
    (tmp_path / "toy_broken.py").write_text("raise OSError('libtoy.so: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["cpu", "cuda", "npu"])
def test_own_names(name: str) -> None:
    assert get_accelerator(name).name == name


def test_a_package_can_add_one(package: Path) -> None:
    offer(package, "toy_device:Toy")
    assert get_accelerator("toy").resource == "TOY"
    assert accelerator_names() == ("cpu", "cuda", "npu", "toy")
    assert is_accelerator("toy") and is_accelerator("npu") and not is_accelerator("toyy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "accelerator toy: not known; known are cpu, cuda, npu"),
        (["toy_device:Toy"] * 2, "offered by 2 packages; uninstall all but one"),
        (["toy_device:Missing"], "entry point toy_device:Missing does not load"),
        (["no_such_module:Toy"], r"does not load \(ModuleNotFoundError: .*no_such_module"),
        (["toy_broken:Toy"], r"does not load \(OSError: libtoy.so: cannot open shared object file\)"),
        (["toy_device:Half"], "toy_device:Half is not whole: .*abstract"),
        (["pathlib:Path"], "not a subclass of dougong.accelerators.base.Accelerator"),
    ],
)
def test_refusals(values: list[str], message: str, package: Path) -> None:
    for value in values:
        offer(package, value)
    with pytest.raises(DeviceError, match=message):
        get_accelerator("toy")
