"""What several commands share."""

from __future__ import annotations

import re

from dougong.cli.options import new_run_path


def test_a_new_run_s_directory_has_its_name_and_time() -> None:
    assert re.fullmatch(r"runs/quickstart-\d{8}-\d{6}", str(new_run_path("quickstart")))
