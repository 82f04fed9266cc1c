"""Several data sets as one list of images."""

from __future__ import annotations

import pytest
import torch

from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import DataError
from raytrain_xai.insight.image_rows import ImageRows


def test_rows_of_two_data_sets(birds: str, objects: str) -> None:
    rows = ImageRows([objects, birds], "train", 48)
    assert len(rows) == 48
    found = [(own, batch.images) for own, batch in rows.read([2, 23, 24, 47])]
    assert [own for own, _ in found] == [[2, 23], [24, 47]]
    for (_, images), (path, indices) in zip(found, ((objects, [2, 23]), (birds, [0, 23])), strict=True):
        assert torch.equal(images, load_samples(path, "train", indices, 48)[0].images)
    assert rows.origin(25).data == birds
    assert rows.origin(25).id == StoredSplit(birds, "train").annotations.ids[1].as_py()


def test_masks_count_the_classes_of_all(birds: str, objects: str) -> None:
    """Of equal images, the mask value of a class moves behind the classes of the data set before."""
    one, both = ImageRows([birds], "train", 48), ImageRows([objects, birds], "train", 48)
    [(_, batch)] = one.read([0, 1, 2])
    alone, shifted = one.masks(0, batch), both.masks(24, batch)
    assert alone is not None and shifted is not None
    assert both.with_masks == list(range(48))
    names = {value: name for value, name in enumerate(one.classes, start=1)}
    for value in alone.unique().tolist():
        moved = shifted[alone == value].unique().tolist()
        expected = value if value in (0, 255) else both.classes.index(names[value]) + 1
        assert moved == [expected]


def test_no_such_split(birds: str) -> None:
    with pytest.raises(DataError, match="has no split 'unseen'"):
        ImageRows([birds], "unseen", 48)
