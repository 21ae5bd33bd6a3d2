"""NPUs by npu-smi's text. No NPU has been read.

The answers have the forms that these public documents and sources show, with figures of our own:
`npu-smi info -m`, `-t ecc`: Ascend's npu-smi command reference; `-t health`, `-t board`: MindCluster, "Collecting NPU
environment information" (npu-smi 23.0.5); several codes in a line, `-t temp`: the sources of Ascend's npu-smi;
`-t usages`: programs that read its capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from dougong.accelerators.telemetry.ascend import (
    CODES,
    AscendTelemetry,
    chips_in,
    faults_in,
    fields_in,
    memory_sizes,
    run_npu_smi,
)
from dougong.accelerators.telemetry.reading import DeviceFault
from dougong.errors import DeviceError

MAPPING = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name
\t0                              0                              0                              Ascend 910B3
\t0                              1                              -                              Mcu
\t1                              0                              1                              Ascend 910B3
\t1                              1                              -                              Mcu
"""
WELL = """\
\tHealth Status                  : OK
\tError Code                     : NA
\tError Information              : NA
"""
ONE_CODE = """\
\tHealth Status                  : Alarm
\tError Code                     : 80E01801
\tError Information              : node type=OnchipMemory, sensor type=ECC, event state=multi bit
"""
SEVERAL_CODES = """\
\tHealth Status                  : Critical
\tError Code                     : 80E18402 A8028801
\tError Information              : the first one

\t                               : the second one
"""


def ecc(single: int, double: int) -> str:
    return f"""\
        NPU ID                                   : 0
        HBM Single Bit Error Count               : {single}
        HBM Double Bit Error Count               : {double}
        HBM Single Bit Aggregate Total Err Cnt   : 90
        HBM Double Bit Isolated Pages Count      : 3
"""


class Tool:
    """npu-smi on a machine of two NPUs, whose answers a test changes."""

    def __init__(self) -> None:
        self.health = {"0": WELL, "1": WELL}
        self.ecc = {"0": ecc(5, 1), "1": ecc(0, 0)}

    def __call__(self, commands: Sequence[Sequence[str]]) -> list[str]:
        return [self.answer(*words) for words in commands]

    def answer(self, info: str, what: str, *more: str) -> str:
        if what == "-m":
            return MAPPING
        kind, _, npu, _, chip = more
        assert (info, what, chip) == ("info", "-t", "0")
        if kind == "board":
            return f"\tNPU ID                         : {npu}\n\tPCIe Bus Info                  : 0000:{npu}1:00.0\n"
        if kind == "temp":
            return "\tNPU Temperature (C)            : 47\n"
        if kind == "usages":
            return f"\tHBM Capacity(MB)               : {65536 if npu == '0' else 'NA'}\n\tHBM Usage Rate(%)   : 3\n"
        return {"health": self.health, "ecc": self.ecc}[kind][npu]


def test_memory_is_what_npu_smi_says_and_nothing_where_it_does_not() -> None:
    assert memory_sizes(Tool()) == [64 << 30]


def test_chips_that_compute_and_their_places() -> None:
    assert chips_in(MAPPING) == [(0, "0", "0"), (1, "1", "0")]
    assert AscendTelemetry(Tool()).keys == ("NPU-0000:01:00.0", "NPU-0000:11:00.0")
    assert chips_in("dcmi module initialize failed. ret is -8005\n") == []


def test_figures_are_new_since_the_first_look() -> None:
    tool = Tool()
    telemetry = AscendTelemetry(tool)
    first, second = telemetry.read(0.0)
    assert (first.number, first.uncorrected, first.corrected, first.remapped_rows) == (0, 0, 0, 3)
    assert (second.number, second.temperature_c, second.faults) == (1, 47, ())
    tool.ecc["0"] = ecc(9, 2)
    assert [(one.uncorrected, one.corrected) for one in telemetry.read(0.0)] == [(1, 4), (0, 0)]


def test_a_code_is_told_once_and_again_when_it_comes_back() -> None:
    tool = Tool()
    telemetry = AscendTelemetry(tool)
    for health, told in [(ONE_CODE, 1), (ONE_CODE, 0), (WELL, 0), (ONE_CODE, 1)]:
        tool.health["1"] = health
        assert len(telemetry.read(0.0)[1].faults) == told


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (WELL, []),
        ("", []),
        (ONE_CODE, [("80E01801", "worker")]),
        (SEVERAL_CODES, [("80E18402", "give_up"), ("A8028801", "give_up")]),
        (ONE_CODE.replace("80E01801", "81AD8605"), [("81AD8605", "worker")]),
        (WELL.replace("OK", "Warning"), [("health Warning", "note")]),
        (WELL.replace("OK", "Critical"), [("health Critical", "give_up")]),
        (WELL.replace("OK", "UNKNOWN"), [("health UNKNOWN", "note")]),
    ],
)
def test_what_the_tool_says_of_a_chips_health(text: str, faults: list[tuple[str, str]]) -> None:
    assert [(fault.code, fault.consequence) for fault in faults_in(text)] == faults


def test_a_code_of_its_own_words_keeps_them() -> None:
    (fault,) = faults_in(ONE_CODE.replace("80E01801", "81AD8605"))
    assert fault == DeviceFault("81AD8605", fields_in(ONE_CODE)["Error Information"], "worker")
    assert str(CODES["80E01801"]) == "80E01801 (an uncorrectable error of its memory (several bits))"


def test_the_real_tool_is_run_and_one_that_fails_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="npu-smi cannot be run"):
        run_npu_smi([("info", "-m")])
    tool = tmp_path / "npu-smi"
    tool.write_text('#!/bin/sh\necho "$@"\n[ "$2" != -l ]\n')
    tool.chmod(0o755)
    assert run_npu_smi([("info", "-m"), ("info", "-l")]) == ["info -m\n", ""]


def test_a_machine_without_a_chip_is_refused() -> None:
    with pytest.raises(DeviceError, match="names no chip"):
        AscendTelemetry(lambda commands: [""] * len(commands))
