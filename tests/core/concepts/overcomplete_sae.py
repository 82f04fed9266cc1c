"""The autoencoders of overcomplete without its plots, whose import fails with matplotlib 3.11."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec, module_from_spec
from typing import Any


def import_overcomplete_sae() -> Any:
    """Module ``overcomplete.sae``; the package around it is not executed."""
    if "overcomplete.sae" not in sys.modules:
        spec = find_spec("overcomplete")  # finds, but does not import
        assert spec is not None
        sys.modules["overcomplete"] = module_from_spec(spec)
    return importlib.import_module("overcomplete.sae")
