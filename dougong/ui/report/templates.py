"""Pages from templates that lie in a package."""

from __future__ import annotations

from importlib import resources

import jinja2

from dougong.ui import formatting


def template_environment(package: str) -> jinja2.Environment:
    """Templates of a package, with the filters that every page has. A value that a template names
    and nobody gave is an error."""
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(lambda name: read_template(package, name)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = formatting.duration
    environment.filters["moment"] = formatting.moment
    return environment


def read_template(package: str, name: str) -> str:
    """A file of the package, such as a style sheet."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
