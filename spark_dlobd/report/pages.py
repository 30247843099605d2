"""Pages from templates. Runs on the driver."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: Any) -> str:
    """Return a page that loads nothing from elsewhere.

    Parameters
    ----------
    template : str
        The package and the name of the file, e.g. ``"spark_dlobd.report/report.html.j2"``.
    **values
        What it shows; texts are escaped.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(template: str) -> str:
    package, _, name = template.partition("/")
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
