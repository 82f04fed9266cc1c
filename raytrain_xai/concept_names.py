"""Names of concepts: ``names.json`` in the folder of a concept run."""

from __future__ import annotations

from raytrain_xai.run_folder import read_json
from raytrain_xai.storage import Location, exists

NAMES = "names.json"


def read_names(run: Location) -> dict[int, str]:
    """Concept -> name, of the concepts that have one.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not exists(run.child(NAMES)):
        return {}
    return {int(concept): name for concept, name in read_json(run.child(NAMES))["names"].items()}
