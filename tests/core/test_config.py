"""Configurations: what is refused, with which words, and that every shipped file is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.config import RunConfig, dump_config, load_config, load_job, parse_concept_config, parse_config
from raytrain_xai.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
MINIMAL = {"name": "run", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18"}}


SHIPPED = sorted(file for file in (REPOSITORY / "configs").rglob("*.yaml") if file.parent.name != "scaling")  # no jobs


@pytest.mark.parametrize("file", [file for file in SHIPPED if "\nbase:" not in file.read_text()], ids=lambda f: f.stem)
def test_shipped_files_are_valid(file: Path) -> None:
    assert load_job(file).name


def test_round_trip(tmp_path: Path) -> None:
    config = parse_config(MINIMAL)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_overrides_are_typed_and_nested(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_config(parse_config(MINIMAL)))
    sets = ["guidance.weight=1e-3", "guidance.layer=Final", "data.image_size=64", "model.weights="]
    sets.append("channels_last=true")
    config = load_config(tmp_path / "c.yaml", sets)
    assert (config.guidance.weight, config.guidance.layer, config.data.image_size) == (1e-3, "Final", 64)
    assert config.model.weights is None
    assert config.channels_last is True


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("guidance.wieght=1", ["guidance.wieght", "did you mean weight?", "annotated_fraction"]),
        ("guidence.weight=1", ["guidence", "did you mean guidance?"]),
        ("guidance.loss=energie", ["guidance.loss", "'energy', 'l1', 'ppce' or 'rrr'", "energie"]),
        ("guidance.weight=-1", ["guidance.weight", "greater than or equal to 0", "-1"]),
        ("guidance.annotated_fraction=10", ["guidance.annotated_fraction", "less than or equal to 1"]),
        ("epochs=0", ["epochs", "greater than or equal to 1"]),
        ("batch_size=10", ["batch_size 10", "workers x accumulate = 3"]),
        ("name=../up", ["name", "../up"]),
        ("data.augment=crop", ["cache_decoded", "augment=crop"]),
        ("data.eval_resize=200", ["eval_resize 200", "square of 224"]),
        ("optim={warmup_steps: 1, warmup_epochs: 1}", ["warmup_steps and warmup_epochs", "choose one"]),
        ("optim={clip_norm: 1, agc: 0.01}", ["clip_norm and agc", "choose one"]),
        ("mixing.cutmix_alpha=1", ["mixing needs pairs", "3 images"]),
        ("loss.name=cross_entropy", ["F1 is decided at logit 0", "best_accuracy or last"]),
        ("distill={teacher: t}", ["distill.form=softmax without distill.truth_weight", "or for images with several"]),
        ("distill={teacher: t, form: bernoulli, kd_weight: 0, explanation_weight: 1}", ["F1 is decided at logit 0"]),
        ("loss.name=bec", ["loss.name", "'bce', 'off_label_bce' or 'cross_entropy'"]),
        ("ema.decay=1", ["ema.decay", "less than 1"]),
        ("evaluation.iou_threshold=.33", ["evaluation.iou_threshold", ".05, .10", "0.33"]),
        ("epochs", ["'epochs' is not KEY=VALUE"]),
        ("epochs.x=1", ["epochs is a value"]),
        ("data=[", ["not valid YAML"]),
    ],
)
def test_refusals_name_path_reason_and_choices(tmp_path: Path, override: str, words: list[str]) -> None:
    raw = MINIMAL | {"workers": 3, "batch_size": 9, "data": {"path": "d", "cache_decoded": True}}
    (tmp_path / "c.yaml").write_text(dump_config(parse_config(raw)))
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "c.yaml", [override])
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("loss", "distill", "fixes"),
    [
        ("bce", None, True),
        ("cross_entropy", None, False),
        ("bce", {}, False),
        ("bce", {"truth_weight": 0.1}, True),
        ("cross_entropy", {"truth_weight": 0.1}, False),
        ("cross_entropy", {"form": "bernoulli"}, True),
        ("bce", {"form": "bernoulli", "kd_weight": 0, "explanation_weight": 1}, False),
    ],
)
def test_where_the_logit_0_means_something(loss: str, distill: dict[str, object] | None, fixes: bool) -> None:
    taught = None if distill is None else {"teacher": "t", **distill}
    raw = MINIMAL | {"loss": {"name": loss}, "distill": taught, "evaluation": {"select": "last"}}
    assert parse_config(raw).fixes_logits is fixes
    if not fixes:
        with pytest.raises(ConfigError, match="best_accuracy or last, and no min_f1"):
            parse_config(raw | {"evaluation": {"select": "last", "min_f1": 0.1}})


def test_missing_keys_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.path is missing.*model is missing"):
        parse_config({"name": "run", "epochs": 1, "data": {}})
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "section", [{"mixing": {"mixup_alpha": 0.2}}, {"data": {"path": "d", "policy": "randaugment"}}]
)
def test_guidance_refuses_images_that_leave_their_boxes(section: dict[str, object]) -> None:
    parse_config(MINIMAL | section)
    with pytest.raises(ConfigError, match="boxes do not follow.*guidance.weight=0"):
        parse_config(MINIMAL | section | {"guidance": {"weight": 0.1}})


def test_an_elastic_run_may_share_out_a_batch_unevenly_where_its_losses_are_sums() -> None:
    def elastic(**changes: object) -> dict[str, object]:
        return {**MINIMAL, "workers": 4, "batch_size": 10, "resources": {"min_workers": 2}, **changes}

    assert list(parse_config(elastic()).resources.sizes(4)) == [2, 3, 4]
    parse_config(elastic(mixing={"mixup_alpha": 0.2}))  # five pairs
    for changes, words in (
        ({"resources": {"min_workers": 5}}, "resources.min_workers 5 is more than workers 4"),
        ({"accumulate": 3}, "leaves some of workers x accumulate = 12 parts without an image"),
        ({"mixing": {"mixup_alpha": 0.2}, "accumulate": 2}, "= 8 parts without a pair of images to mix"),
        ({"mixing": {"mixup_alpha": 0.2}, "batch_size": 11}, "without a pair of images to mix"),
        ({"resources": {"min_workers": 0}}, "greater than or equal to 1"),
        ({"resources": {"capacity_deadline_s": 0}}, "greater than 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_config(elastic(**changes))


def test_elastic_shares_are_equal_where_features_or_vectors_are_gathered() -> None:
    crd = {"teacher": "t", "kd_weight": 1, "baseline": "crd", "baseline_weight": 0.8, "form": "bernoulli"}
    raw = {**MINIMAL, "workers": 3, "resources": {"min_workers": 1}, "distill": crd}
    parse_config({**raw, "batch_size": 12})
    with pytest.raises(ConfigError, match="batch_size 10 does not divide into 3 equal shares"):
        parse_config({**raw, "batch_size": 10})
    concepts = {"job": "concepts", "name": "c", "network": "n", "layer": "Mid3", "workers": 4, "batch_size": 16}
    parse_concept_config(concepts)
    with pytest.raises(ConfigError, match="batch_size 16 does not divide into 3 equal shares"):
        parse_concept_config({**concepts, "resources": {"min_workers": 2}})


def test_compile_is_refused_with_guidance() -> None:
    assert parse_config(MINIMAL | {"compile": True}).compile
    with pytest.raises(ConfigError, match="compile is for plain training: set guidance.weight=0"):
        parse_config(MINIMAL | {"compile": True, "guidance": {"weight": 0.1}})
