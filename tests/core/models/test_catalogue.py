"""The table of published weights against the tables of the publishers' own packages."""

from __future__ import annotations

import re

import pytest
import torchvision
from bcos.models import pretrained

from raytrain_xai.errors import ConfigError
from raytrain_xai.models.catalogue import CATALOGUE, find_official, is_official
from raytrain_xai.models.zoo import ARCHITECTURES

BY_PUBLISHER = {
    publisher: [(name, w) for name, entries in CATALOGUE.items() for w in entries if w.release.publisher == publisher]
    for publisher in ("B-cos v2", "torchvision", "torchvision (SWAG)", "X-DNN")
}


def test_every_entry_belongs_to_an_architecture_and_has_one_file() -> None:
    assert set(CATALOGUE) <= set(ARCHITECTURES)
    files = [weights.file for entries in CATALOGUE.values() for weights in entries]
    assert len(set(files)) == len(files) == sum(map(len, BY_PUBLISHER.values()))


def test_addresses_are_those_of_the_bcos_package() -> None:
    theirs = {url for group in pretrained.URLS.values() for url in group.values()}
    assert {weights.url for _, weights in BY_PUBLISHER["B-cos v2"]} == theirs
    assert len(theirs) == 34


def bare(name: str) -> str:
    """What file names and functions of the package have in common."""
    return re.sub(r"bcos|standard|_pn$|_", "", name)


@pytest.mark.parametrize(("name", "weights"), BY_PUBLISHER["B-cos v2"], ids=lambda v: getattr(v, "file", v))
def test_accuracy_and_file_are_those_the_bcos_package_documents(name: str, weights) -> None:
    entry = name.removeprefix("bcos_") if name.startswith("bcos_") else f"standard_{name}"
    entry = entry.removesuffix("_pn") + ("_long" if weights.variant == "official-long" else "")
    document = getattr(pretrained, entry).__doc__
    found = re.search(r"Acc@1\s*\|\s*([\d.]+)", document)
    assert found is not None
    assert weights.top1 == float(found[1])
    assert bare(weights.file.split("-")[0]) == bare(entry)
    assert len(weights.sha256) == 10


@pytest.mark.parametrize(
    ("name", "weights"),
    BY_PUBLISHER["torchvision"] + BY_PUBLISHER["torchvision (SWAG)"],
    ids=lambda v: getattr(v, "file", v),
)
def test_address_and_accuracy_are_those_of_torchvision(name: str, weights) -> None:
    (theirs,) = [entry for entry in torchvision.models.get_model_weights(name) if entry.url == weights.url]
    assert weights.top1 == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert len(weights.sha256) == 8
    assert theirs.name.endswith("V2") == (weights.variant == "official-v2")
    assert ("license" in theirs.meta) == (weights.release.license == "CC-BY-NC-4.0")


def test_a_file_without_published_checksum_has_none() -> None:
    (weights,) = CATALOGUE["xdnn_resnet50"]
    assert (weights.sha256, weights.top1) == (None, None)
    assert weights.url.endswith("/models/xfixup_resnet50_model_best.pth.tar")


def test_lookup() -> None:
    assert find_official("bcos_resnet50").file == "resnet_50-ead259efe4.pth"
    assert find_official("bcos_resnet50", "official-long").sha256 == "ef38a88533"
    assert [is_official(name) for name in ("official", "official-long", "officials.pth", "imagenet")] == [
        True, True, False, False,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no weights 'official-v2' of bcos_resnet50 .*, only official, official-long"):
        find_official("bcos_resnet50", "official-v2")
    with pytest.raises(ConfigError, match="no weights of bcos_resnet_tiny are published; train it, or give a file"):
        find_official("bcos_resnet_tiny")
