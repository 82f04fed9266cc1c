"""The game played by a network whose explanations are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.localisation.benchmark import NUM_EXAMPLES, Protocol, draw_mosaics, plan_methods, play
from raytrain_xai.localisation.grid_pointing import Candidates, Grids
from raytrain_xai.localisation.methods import Method
from raytrain_xai.localisation.subject import Subject, load_subjects
from raytrain_xai.models.bcos_layers import LogitLayer
from raytrain_xai.models.zoo import build_network


def test_the_perfect_explanation_of_a_perfect_classifier(confident_reader: Subject, colours: str) -> None:
    """Input x gradient of red is 8 on red pixels, -8 on green and blue ones, -8 * .235 on grey ones: all its positive
    part is in its tile. Grey's is 1 on every pure pixel and .706 on grey ones.
    """
    protocol = Protocol(colours, "test", max_grids=500)
    drawn = draw_mosaics(confident_reader, protocol)
    assert (drawn.num_single, drawn.num_usable) == (12, 12)
    done: list[int] = []
    result = play(confident_reader, drawn, [Method("ixg"), Method("gradient")], protocol, done.append)
    assert sum(done) == len(result.ids) == 3
    assert sorted(name for row in result.ids for name in row) == sorted(
        f"test/{colour}/{number}.png" for colour in ("blue", "green", "grey", "red") for number in range(3)
    )
    score = result.scores[0]
    is_grey = torch.from_numpy(drawn.grids.targets) == 2
    grey = 3 * 60 / 255
    torch.testing.assert_close(score.shares[~is_grey], torch.ones(9))
    torch.testing.assert_close(score.shares[is_grey], torch.full((3,), grey / (3 + grey)))
    # the gradient summed over channels is -8 everywhere for a pure colour, 3 for grey: empty, and uniform
    gradient = result.scores[1]
    assert gradient.empty_maps == 0.75
    torch.testing.assert_close(gradient.shares[is_grey], torch.full((3,), 0.25))
    assert gradient.shares[~is_grey].tolist() == [0.0] * 9
    assert result.mosaics.shape == (NUM_EXAMPLES, 3, 32, 32)
    assert result.scores[0].examples.shape == (NUM_EXAMPLES, 32, 32)


def test_mosaics_show_the_named_images_in_their_tiles(confident_reader: Subject, colours: str) -> None:
    protocol = Protocol(colours, "test", max_grids=1, tile_size=10)
    drawn = draw_mosaics(confident_reader, protocol)
    result = play(confident_reader, drawn, [Method("ixg")], protocol, lambda _: None)
    assert result.tile_size == 10
    pixels = {"blue": (0, 0, 255), "green": (0, 255, 0), "grey": (60, 60, 60), "red": (255, 0, 0)}
    for position, name in enumerate(result.ids[0]):
        column, row = divmod(position, 2)
        colour = result.mosaics[0, :, 10 * row + 5, 10 * column + 5].tolist()
        assert tuple(colour) == pixels[name.split("/")[1]]


def test_tiles_are_cut_as_the_images_were(confident_reader: Subject, frames: str) -> None:
    """Pictures with a white frame that is gone when the central half is cut out, whatever the size of the tile."""
    subject = replace(confident_reader, shorter=32)  # and 16 pixels are cut out of it
    protocol = Protocol(frames, "test", tile_size=10)
    drawn = draw_mosaics(subject, protocol)
    mosaic = play(subject, drawn, [Method("ixg")], protocol, lambda _: None).mosaics[0]
    assert not (mosaic == 255).all(dim=0).any()
    squeezed = play(confident_reader, drawn, [Method("ixg")], protocol, lambda _: None).mosaics[0]
    assert (squeezed == 255).all(dim=0).any()


def test_confidence_is_asked_for(colour_reader: Subject, colours: str) -> None:
    """Grey has a negative logit, so three classes are left with a threshold, and too few for a mosaic."""
    with pytest.raises(DataError, match="needs 4 different classes, but only 3 have"):
        draw_mosaics(colour_reader, Protocol(colours, "test"))
    drawn = draw_mosaics(colour_reader, Protocol(colours, "test", min_probability=0.0, max_grids=2))
    assert (drawn.num_single, drawn.num_usable, len(drawn.grids.images)) == (12, 12, 2)


def test_only_images_with_one_label_are_tiles(
    colour_reader: Subject, objects: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The composed scenes hold one to four objects."""
    labels = StoredSplit(objects, "train").annotations.multi_hot(np.arange(24), 8)
    is_single = labels.sum(axis=1) == 1
    assert 0 < is_single.sum() < 24
    seen: list[Candidates] = []

    def record(found: Candidates, num_tiles: int, *, max_grids: int, seed: int) -> Grids:
        seen.append(found)
        assert (num_tiles, max_grids, seed) == (9, 250, 7)
        return Grids(np.zeros((1, 9), dtype=np.int64), np.zeros((1, 9), dtype=np.int64))

    monkeypatch.setattr("raytrain_xai.localisation.benchmark.choose_grids", record)
    subject = replace(colour_reader, network=build_network("bcos_resnet_tiny", 8).eval(), image_size=48)
    drawn = draw_mosaics(subject, Protocol(objects, "train", side=3, max_grids=250, seed=7))
    assert seen[0].index.tolist() == np.flatnonzero(is_single).tolist()
    assert seen[0].label.tolist() == labels[is_single].argmax(axis=1).tolist()
    assert drawn.num_single == is_single.sum()


def test_a_model_has_its_own_method_by_default(colour_reader: Subject) -> None:
    bcos = Subject("tiny", build_network("bcos_resnet_tiny", 4).eval(), 32, None, Method("bcos", "Mid2"), None)
    plans = plan_methods([colour_reader, bcos], [])
    assert [plan.methods for plan in plans] == [[Method("ixg")], [Method("bcos", "Mid2")]]
    assert [plan.skipped for plan in plans] == [{}, {}]


def test_methods_go_to_the_models_they_fit(colour_reader: Subject) -> None:
    bcos = Subject("tiny", build_network("bcos_resnet_tiny", 4).eval(), 32, None, Method("bcos"), None)
    wanted = [Method("ixg"), Method("bcos"), Method("rise"), Method("ixg")]
    plans = plan_methods([colour_reader, bcos], wanted)
    assert [plan.methods for plan in plans] == [[Method("ixg"), Method("rise")], [Method("bcos"), Method("rise")]]
    assert "'bcos' does not fit reader" in plans[0].skipped["bcos@Input"]
    with pytest.raises(ConfigError, match="no method fits tiny"):
        plan_methods([colour_reader, bcos], [Method("ixg")])
    with pytest.raises(ConfigError, match=r"gradcam@Mid1 fits no model: .*no layer 'Mid1'"):
        plan_methods([colour_reader], [Method("ixg"), Method("gradcam", "Mid1")])


def test_models_are_runs_or_architectures(make_run: Callable[..., str], objects: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "tiny", objects, model="bcos_resnet_tiny", guidance={"layer": "Mid2"})
    subjects, path = load_subjects([run], None, which="selected", device=torch.device("cpu"))
    assert path == objects
    assert (subjects[0].label, subjects[0].image_size, str(subjects[0].own_method)) == ("tiny", 32, "bcos@Mid2")
    assert any(isinstance(module, LogitLayer) for module in subjects[0].network.net.modules())
    both, _ = load_subjects([f"bcos_resnet_tiny={run}", run], None, which="last", device=torch.device("cpu"))
    assert [subject.label for subject in both] == [f"bcos_resnet_tiny={run}", "tiny"]
    weights = [subject.network.net.state_dict() for subject in both]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])  # the classifier as well


def test_models_that_do_not_fit_the_data_are_refused(
    make_run: Callable[..., str], objects: str, birds: str, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    run = make_run(tmp_path, "tiny", objects)
    with pytest.raises(DataError, match="was trained on 8 classes"):
        load_subjects([run], birds, which="selected", device=cpu)
    with pytest.raises(
        CheckpointError, match=r"squeezenet1_1=imagenet has a classifier for 1000 classes, the data has 2"
    ):
        load_subjects(["squeezenet1_1=imagenet"], birds, which="selected", device=cpu)
    with pytest.raises(ConfigError, match="name a data set with --data"):
        load_subjects(["squeezenet1_1=imagenet"], None, which="selected", device=cpu)
    with pytest.raises(ConfigError, match="given more than once"):
        load_subjects([run, run], None, which="selected", device=cpu)
