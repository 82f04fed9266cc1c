"""A data set and a network whose explanations are known: flat colours, and a network that reads colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.localisation.methods import Method
from raytrain_xai.localisation.subject import Subject
from raytrain_xai.models.network import Network

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "grey": (60, 60, 60), "red": (255, 0, 0)}


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five pictures of each colour in the training and three in the test split, of different sizes."""
    return _prepare(tmp_path_factory.mktemp("colours"), frame=0)


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with a white frame of four pixels."""
    return _prepare(tmp_path_factory.mktemp("frames"), frame=4)


def _prepare(folder: Path, frame: int) -> str:
    for name, colour in COLOURS.items():
        for split, number in (("train", 5), ("test", 3)):
            (folder / "src" / split / name).mkdir(parents=True)
            for image in range(number):
                pixels = np.full((20 + image, 30, 3), 255, dtype=np.uint8)
                pixels[frame : len(pixels) - frame, frame : 30 - frame] = colour
                Image.fromarray(pixels).save(folder / "src" / split / name / f"{image}.png")
    prepare(read_source("imagefolder", str(folder / "src"), 0, {}), str(folder / "data"))
    return str(folder / "data")


@pytest.fixture
def colour_reader() -> Subject:
    """Logits of blue, green, grey and red. A pure colour c has the mean over the image of 8 c - 8 (the other two), grey
    minus the sum of all three: every picture is classified correctly, but grey has a negative logit on grey.
    """
    conv = nn.Conv2d(3, 4, 1, bias=False)
    weight = torch.tensor([[-8.0, -8.0, 8.0], [-8.0, 8.0, -8.0], [-1.0, -1.0, -1.0], [8.0, -8.0, -8.0]])
    conv.weight.data = weight.view(4, 3, 1, 1)
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(
        net, encode=nn.Identity(), stages=list(net), taps={"Input": 0, "Final": 1}, name="reader", num_classes=4,
        is_bcos=False, head="0",
    )  # fmt: skip
    return Subject("reader", network.eval(), 16, None, Method("ixg"), None)


@pytest.fixture
def confident_reader(colour_reader: Subject) -> Subject:
    """With the sum of all three for grey: all logits are positive on their own colour, and still the highest."""
    colour_reader.network.net[0].weight.data[2] = 1.0
    return colour_reader
