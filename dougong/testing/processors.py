"""A control group of processors: what lives in it is slow, as on a machine with a worse processor,
or one that others use too."""

from __future__ import annotations

from dougong.testing.group import ControlGroup

_PERIOD_US = 20_000
_OF_ONE = "cpu.cfs_quota_us"


class ProcessorGroup(ControlGroup):
    """A context, as `ControlGroup`. LabError where this machine gives none."""

    def __init__(self, share: float) -> None:
        """`share`: of one processor that all processes in it have together, such as 0.2."""
        super().__init__("cpu", (_OF_ONE, "cpu.max"))
        quota = round(share * _PERIOD_US)
        if self.limit_file == _OF_ONE:
            (self.path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self.path / _OF_ONE).write_text(str(quota))
        else:
            (self.path / self.limit_file).write_text(f"{quota} {_PERIOD_US}")
