"""The autoencoders of overcomplete without its plots, whose import fails with matplotlib 3.11."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def import_overcomplete_sae() -> Any:
    """Module ``overcomplete.sae``; the package around it is not executed."""
    if "overcomplete.sae" not in sys.modules:
        spec = find_spec("overcomplete")  # finds, but does not import
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = ModuleType("overcomplete")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["overcomplete"] = package
    return importlib.import_module("overcomplete.sae")
