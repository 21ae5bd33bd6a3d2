"""Tools that run in a namespace say what was wrong, and with what."""

from __future__ import annotations

import os

import pytest
from dougong.testing import Lab, LabError
from dougong.testing.namespaces import Place

pytestmark = pytest.mark.lab


def test_a_line_that_is_refused_is_shown_with_the_tool_s_own_words(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"(?s)ip -batch -`: .*nothing.*given:\nlink set nothing up"):
        lab.switch.ip(["link set nothing up"])


def test_a_tool_that_is_not_installed(lab: Lab) -> None:
    with pytest.raises(LabError, match="no-such-tool"):
        lab.switch.net(["no-such-tool"])


def test_a_place_that_is_gone() -> None:
    gone = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(gone, 0)
    with pytest.raises(LabError, match="nsenter"):
        Place(gone).net(["ip", "link"])
