"""What packages offer by entry points. The rest is in the tests of those who take it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import EntryPoint
from pathlib import Path, PurePath

import pytest
from dougong.errors import DeviceError
from dougong.offers import offered_class


def offer(value: str) -> EntryPoint:
    return EntryPoint("toy", value, "dougong.toys")


def test_a_subclass_is_handed_over() -> None:
    assert offered_class(offer("pathlib:Path"), PurePath, "toy", "PAGE.md") is Path


@pytest.fixture
def wrong_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules, each with a way of its own in which it does not load."""
    sources = {
        "toy_library": "raise OSError('libtoy.so: cannot open shared object file')\n",
        "toy_unfinished": "class Toy(:\n",
        "toy_leaving": "import sys\nsys.exit(3)\n",
        "toy_misspelt": "nothing.begin()\n",
        "toy_typed": "raise KeyboardInterrupt\n",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:Toy", "does not load (ModuleNotFoundError: No module named 'no_such_module'); install its "
         "package again, with the libraries that it needs, or do without"),
        ("toy_library:Toy", "(OSError: libtoy.so: cannot open shared object file); install its package again, with the "
         "libraries that it needs, or do without"),
        ("toy_unfinished:Toy", "(toy_unfinished.py, line 1)); correct that line in the package, or install a release "
         f"of it for Python {platform.python_version()}, or do without"),
        ("toy_leaving:Toy", "does not load (SystemExit: 3); correct it in the package (`python -c 'import toy_leaving'`"
         " shows where), or do without"),
        ("toy_misspelt:Toy", "(NameError: name 'nothing' is not defined); correct it in the package"),
        ("pathlib:Paths", "(AttributeError: module 'pathlib' has no attribute 'Paths'); have the package's entry point "
         "name a class that is there, or do without"),
        ("pathlib:PurePath.name", " is <property object at "),
        ("json:loads", "not a subclass of pathlib.PurePath; see PAGE.md, or do without"),
        ("json:JSONDecoder", "not a subclass of pathlib.PurePath; see PAGE.md, or do without"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_place_and_what_to_do(wrong_packages: None, value: str, said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        offered_class(offer(value), PurePath, "toy", "PAGE.md", ", or do without")
    assert str(caught.value).startswith(f"toy toy: entry point {value} ") and said in str(caught.value)


def test_ctrl_c_is_no_fault_of_a_package(wrong_packages: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        offered_class(offer("toy_typed:Toy"), PurePath, "toy", "PAGE.md")
