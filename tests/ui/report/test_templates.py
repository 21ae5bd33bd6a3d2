"""What the templates of all pages have. The pages themselves are in `test_page` and in conform's."""

from __future__ import annotations

import jinja2
import pytest
from dougong.ui.report.templates import read_template, template_environment


def test_a_value_that_nobody_gave_is_an_error_and_text_is_escaped() -> None:
    environment = template_environment("dougong.ui.report")
    assert environment.from_string("{{ text }}").render(text="<b>") == "&lt;b&gt;"
    assert environment.from_string("{{ seconds | duration }}").render(seconds=90.0)
    with pytest.raises(jinja2.UndefinedError):
        environment.from_string("{{ text }}").render()


def test_a_file_of_the_package_is_read() -> None:
    assert read_template("dougong.ui.report", "page.css").count("{") > 10
