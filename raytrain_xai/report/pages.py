"""How every HTML page of this package is rendered."""

from __future__ import annotations

import jinja2


def page_environment() -> jinja2.Environment:
    """Templates of this package; texts are escaped, and a value that a template misses is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("raytrain_xai.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
