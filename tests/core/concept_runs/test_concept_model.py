"""Loading concept runs: what fits together is loaded, everything else is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.model import ConceptModel, load_concepts, network_fingerprint
from raytrain_xai.concept_runs.network import adopt_network
from raytrain_xai.concepts.layer import with_concepts
from raytrain_xai.config import parse_concept_config, parse_config, parse_job
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.models.zoo import build_network
from raytrain_xai.run_folder import read_config
from raytrain_xai.storage import locate

RAW = {"job": "concepts", "name": "a", "network": "runs/net", "layer": "Final"}


def copied(run: str, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "copy"))


def test_runs_of_one_network_are_combined_in_forward_order(concept_runs: dict[str, str]) -> None:
    model = load_concepts([concept_runs["Final"], concept_runs["Mid2"]])
    assert list(model.layers) == ["Mid2", "Final"]
    assert model.origins["Final"] == concept_runs["Final"]
    assert model.name("Final", 7) == "concept 7"
    batch, _ = load_samples(model.data, "test", [0, 1], model.explainer.image_size)
    with torch.no_grad():
        logits = with_concepts(model.network, model.layers)(batch.images)
    assert logits.shape == (2, len(model.explainer.classes))
    assert logits.isfinite().all()


def test_a_run_holds_its_network(concept_runs: dict[str, str], tmp_path: Path) -> None:
    """The network it was trained for may be gone."""
    moved = copied(concept_runs["Final"], tmp_path)
    model = load_concepts([str(moved)])
    original, *_ = [adopt_network(parse_concept_config(read_config(locate(concept_runs["Final"]))))]
    assert network_fingerprint(model.network) == network_fingerprint(original.network)
    assert isinstance(model, ConceptModel)


def test_wrong_runs_are_refused(concept_runs: dict[str, str], tmp_path: Path) -> None:
    network = str(Path(concept_runs["Final"]) / "network")
    with pytest.raises(ConfigError, match="describes a classifier's run, a concept run is needed"):
        load_concepts([network])
    with pytest.raises(ConfigError, match="are both concepts of Final"):
        load_concepts([concept_runs["Final"], str(copied(concept_runs["Final"], tmp_path))])
    with pytest.raises(ConfigError, match="no concept run given"):
        load_concepts([])
    with pytest.raises(ConfigError, match="is not a run"):
        load_concepts([str(tmp_path)])


def test_concepts_of_another_network_are_refused(concept_runs: dict[str, str], tmp_path: Path) -> None:
    moved = copied(concept_runs["Mid2"], tmp_path)
    [state] = moved.glob("checkpoints/*/state.json")
    text = state.read_text()
    fingerprint = text.split('"fingerprint": "')[1].split('"')[0]
    changed = text.replace(fingerprint, "0" * 64)
    rewrite(moved, state, changed.encode())
    with pytest.raises(ConfigError, match="belong to another network than those of"):
        load_concepts([concept_runs["Final"], str(moved)])


def test_weights_that_do_not_fit_the_configuration_are_refused(concept_runs: dict[str, str], tmp_path: Path) -> None:
    moved = copied(concept_runs["Final"], tmp_path)
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace("latents: 24", "latents: 25"))
    with pytest.raises(CheckpointError, match="do not fit its configuration"):
        load_concepts([str(moved)])


def rewrite(run: Path, file: Path, content: bytes) -> None:
    """Change a file of a checkpoint together with its manifest."""
    import hashlib
    import json

    file.write_bytes(content)
    manifest = file.with_name("manifest.json")
    listed = json.loads(manifest.read_text())
    listed["files"][file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(listed))
    assert run in file.parents


def test_networks_that_cannot_have_concepts_are_refused(objects: str) -> None:
    def adopt(**changes: object) -> None:
        adopt_network(parse_concept_config({**RAW, "data": objects, **changes}))

    with pytest.raises(ConfigError, match="is no B-cos network"):
        adopt(network="squeezenet1_1=imagenet")
    with pytest.raises(ConfigError, match=r"has no layer 'Last'; .*its layers are Input, Mid1"):
        adopt(network="bcosified_squeezenet1_1=voc", layer="Last")
    with pytest.raises(ConfigError, match="layer=Input is the image itself"):
        adopt(network="bcosified_squeezenet1_1=voc", layer="Input")
    with pytest.raises(ConfigError, match="does not say which data it is for"):
        adopt(network="bcosified_squeezenet1_1=voc", data=None)


def test_fingerprint_knows_every_weight() -> None:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 3)
    before = network_fingerprint(network)
    assert network_fingerprint(network.net.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network.net.get_parameter("conv1.linear.weight")[0, 0, 0, 0] += 1e-6
    assert network_fingerprint(network) != before


def test_jobs_are_told_apart() -> None:
    assert isinstance(parse_job(RAW), ConceptRunConfig)
    with pytest.raises(ConfigError, match="job is 'distil'; it is classify, concepts, align or caption"):
        parse_job({**RAW, "job": "distil"})
    with pytest.raises(ConfigError, match="describes a concept run, a classifier's is needed"):
        parse_config(RAW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae": {"kk": 3}}, "unknown key sae.kk; did you mean k"),
        ({"sae": {"kind": "relu", "k": 3}}, "unknown key sae.k; valid keys here: .*l1_weight"),
        ({"sae": {"latents": 8, "k": 9}}, "sae.k=9 is more than the sae.latents=8"),
        ({"sae": {"kind": "vq"}}, "expected tags: 'topk'"),
        ({"batch_size": 10, "workers": 3}, "does not divide into 3 equal shares"),
        ({"parallel": "dictionary", "workers": 3}, "sae.latents 8192 does not divide into 3"),
        ({"layer": None}, "layer: .*got None"),
    ],
)
def test_configuration_errors_name_the_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_concept_config({**RAW, **changes})
