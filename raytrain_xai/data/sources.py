"""Kinds of data sets that ``data prepare`` reads, and their options."""

from __future__ import annotations

from collections.abc import Mapping

from raytrain_xai.data.records import Option, Source
from raytrain_xai.errors import ConfigError

KINDS = (
    "voc2007", "voc2012", "coco", "waterbirds", "imagefolder", "table", "feedback", "scenes-birds", "scenes-multi",
)  # fmt: skip
_SCENE_OPTIONS = ("num_train", "size", "unseen")
_SCENES = {"scenes-birds": (*_SCENE_OPTIONS, "correlation"), "scenes-multi": _SCENE_OPTIONS}
_OPTIONS = {**_SCENES, "table": ("label_column",)}


def read_source(kind: str, src: str | None, seed: int, options: Mapping[str, Option]) -> Source:
    """List the records of a data set on disk, or plan composed scenes.

    Args:
        kind: one of ``KINDS``.
        src: folder of the data set; None for scenes from the embedded cut-outs.
        seed: divides an imagefolder without split folders, and draws scenes.
        options: fields of :class:`raytrain_xai.data.scenes.SceneOptions`, for the scenes kinds; ``label_column`` of
            :func:`raytrain_xai.data.image_table.read_image_table`.
    Raises:
        ConfigError: unknown kind, an option that the kind does not have, or no ``src`` where one is needed.
        DataError: ``src`` is not such a data set.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
    wrong = [name for name in options if name not in _OPTIONS.get(kind, ())]
    if wrong:
        raise ConfigError(f"{kind} has no option {', '.join(wrong)}; it is for {', '.join(_kinds_with(wrong[0]))}")
    if src is None and kind not in _SCENES:
        raise ConfigError(f"{kind} needs the folder of the data set: raytrain-xai data prepare {kind} SRC DEST")
    return _read(kind, src or "", seed, options)


def _read(kind: str, src: str, seed: int, options: Mapping[str, Option]) -> Source:
    # imported here: each reader brings its own libraries
    match kind:
        case "voc2007" | "voc2012":
            from raytrain_xai.data.voc import read_voc

            return read_voc(src, int(kind.removeprefix("voc")))
        case "coco":
            from raytrain_xai.data.coco import read_coco

            return read_coco(src)
        case "waterbirds":
            from raytrain_xai.data.waterbirds import read_waterbirds

            return read_waterbirds(src)
        case "imagefolder":
            from raytrain_xai.data.imagefolder import read_imagefolder

            return read_imagefolder(src, seed)
        case "table":
            from raytrain_xai.data.image_table import LABEL, read_image_table

            return read_image_table(src, str(options.get("label_column", LABEL)))
        case "feedback":
            from raytrain_xai.data.feedback import read_feedback

            return read_feedback(src)
        case _:
            return _plan_scenes(kind, src, seed, options)


def _plan_scenes(kind: str, src: str, seed: int, options: Mapping[str, Option]) -> Source:
    from raytrain_xai.data.scenes import SceneOptions, read_scenes_birds, read_scenes_multi

    read = read_scenes_birds if kind == "scenes-birds" else read_scenes_multi
    return read(src or None, SceneOptions(seed=seed, **options))  # pyright: ignore[reportArgumentType]


def _kinds_with(option: str) -> list[str]:
    return [kind for kind, names in _OPTIONS.items() if option in names]
