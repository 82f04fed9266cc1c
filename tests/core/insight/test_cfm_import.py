"""Published CFM dictionaries: files of that shape become runs whose codes are those of the published formulas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from small_encoder import DIM, LATENTS, SmallEncoder
from torch import Tensor

from raytrain_xai.cli.main import cli
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.config import parse_insight_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.insight import importing, model
from raytrain_xai.insight.described import read_described, totals
from raytrain_xai.insight.importing import co_occurrence_of, import_cfm
from raytrain_xai.insight.model import load_insight
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.runners.train import resume_run
from raytrain_xai.storage import locate

GROUPS, K, THETA = (3, 7, 30), 4, 0.35


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> SmallEncoder:
    small = SmallEncoder()
    for module in (importing, model):
        monkeypatch.setattr(module, "load_encoder", lambda text, *, device="cpu": small)  # noqa: ARG005
    return small


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_enc": draw(DIM, LATENTS) / 3, "b_enc": draw(LATENTS) / 5,
        "W_dec": torch.nn.functional.normalize(draw(LATENTS, DIM), dim=1), "b_dec": draw(DIM) / 5,
        "k": torch.tensor(K), "threshold": torch.tensor(THETA), "group_sizes": torch.tensor(GROUPS),
    }  # fmt: skip


def codes(count: int) -> Tensor:
    """(n, K) dense: concept 30 is active at most of the positions of 0, with a few others of its own."""
    active = torch.rand(count, LATENTS, generator=torch.Generator().manual_seed(1)) < 0.08
    active[:, 30] &= torch.rand(count, generator=torch.Generator().manual_seed(2)) < 0.8
    active[:, 0] |= active[:, 30]
    active[:, 39] = False
    return active * torch.rand(count, LATENTS, generator=torch.Generator().manual_seed(3)).clamp(min=0.1)


def write_cfm(folder: Path, changed: Mapping[str, Any] | None = None) -> str:
    folder.mkdir()
    torch.save({**weights(), **(changed or {})}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "MatryoshkaBatchTopKSAE", "k": K}}))
    (folder / "concept_names.txt").write_text("".join(f"name {i}\n" if i % 2 else "\n" for i in range(LATENTS)))
    z = codes(1500)
    active = (z > 0.001).float()
    torch.save(active.T @ active, folder / "C.pth")
    torch.save(z.T @ active, folder / "D.pth")
    return str(folder)


def config(tmp_path: Path, **changes: Any) -> InsightRunConfig:
    return parse_insight_config({
        "job": "concepts", "name": "cfm", "storage": str(tmp_path / "runs"), "encoder": "dinoclip:X=w@d.pt", **changes
    })  # fmt: skip


def test_codes_and_reconstructions_are_the_published_ones(tmp_path: Path, encoder: SmallEncoder) -> None:
    imported = import_cfm(write_cfm(tmp_path / "cfm"), config(tmp_path))
    assert (imported.concepts, imported.named, imported.kept) == (LATENTS, LATENTS // 2, None)
    loaded = load_insight(imported.run.uri)
    assert loaded.names == {i: f"name {i}" for i in range(1, LATENTS, 2)}
    assert loaded.sae.group_sizes.tolist() == list(GROUPS)
    assert loaded.config.sae.k == K
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    g, w = to_vectors(encoder.patches(images)), weights()
    z = torch.relu((g - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    z = z * (z > THETA)
    assert 1 < float((z > 0).sum(dim=-1).float().mean()) < 20
    code, size = loaded.codes(images)
    torch.testing.assert_close(code.dense(), z, rtol=1e-5, atol=1e-6)
    expected = (z @ w["W_dec"] + w["b_dec"]).transpose(1, 2).reshape(2, DIM, 4, 4)
    torch.testing.assert_close(loaded.reconstruct(code, size), expected, rtol=1e-5, atol=1e-6)


def test_relations_are_those_of_the_published_matrices(tmp_path: Path) -> None:
    imported = import_cfm(write_cfm(tmp_path / "cfm"), config(tmp_path))
    loaded = load_insight(imported.run.uri)
    assert loaded.relations is not None
    assert loaded.relations.parents(30) == (0,)
    z = codes(1500)
    assert torch.equal(loaded.relations.frequency, (z > 0).sum(dim=0))
    described = read_described(imported.run)
    assert totals(described.relations)["positions"] == round(int((z > 0).sum()) / K)
    assert described.pictures().num_rows == 0


def test_sums_of_the_matrices_by_hand() -> None:
    """Two positions: latents 0 and 2 with values 1 and 3; latent 2 with 4."""
    z = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 4.0]])
    active = (z > 0).float()
    seen = co_occurrence_of(active.T @ active, z.T @ active, 1)
    assert seen.frequency.tolist() == [1, 0, 2] and seen.mass.tolist() == [1, 0, 7]
    assert seen.pairs.keys.tolist() == [0 * 3 + 2] and seen.pairs.sums.tolist() == [[1, 1, 3]]
    assert int(seen.positions) == 3, "three active values, one at a position"


def test_without_matrices_and_names(tmp_path: Path) -> None:
    source = Path(write_cfm(tmp_path / "cfm"))
    for name in ("C.pth", "D.pth", "concept_names.txt", "config.json"):
        (source / name).unlink()
    loaded = load_insight(import_cfm(str(source), config(tmp_path)).run.uri)
    assert loaded.relations is None and loaded.names == {}


def test_the_command_tries_it_on_data_and_writes_the_tree(tmp_path: Path, objects: str) -> None:
    source, run = write_cfm(tmp_path / "cfm"), str(tmp_path / "runs" / "mine")
    arguments = ["insight", "import", source, run, "--encoder", "clip:X=w", "--data", str(objects)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"{LATENTS} concepts, {LATENTS // 2} with a name" in done.output
    assert "% of the variance explained" in done.output
    assert (Path(run) / "insight" / "tree.html").exists()
    with pytest.raises(ConfigError, match="was imported, not trained here"):
        resume_run(run, ["epochs=9"], None)  # type: ignore[arg-type] - refused before anything is launched


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"W_enc": torch.zeros(LATENTS, DIM)}, r"W_enc of shape \(40, 12\), expected \(12, 40\)"),
        ({"group_sizes": torch.tensor([3, 7])}, "do not make up the 40"),
        ({"k": torch.tensor(0)}, "k must be between 1 and the 40 latents"),
        ({"b_dec": torch.full((DIM,), torch.nan)}, "weights that are not finite"),
    ],
)
def test_dictionaries_that_do_not_fit_together(tmp_path: Path, changed: dict[str, Tensor], message: str) -> None:
    source = write_cfm(tmp_path / "cfm", changed)
    with pytest.raises(CheckpointError, match=message):
        import_cfm(source, config(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_other_files(tmp_path: Path, encoder: SmallEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="ae.pt is missing"):
        import_cfm(str(tmp_path), config(tmp_path))
    source = Path(write_cfm(tmp_path / "cfm"))
    other = replace(encoder, dim=DIM + 1)
    with monkeypatch.context() as patch:
        patch.setattr(importing, "load_encoder", lambda text: other)  # noqa: ARG005
        with pytest.raises(ConfigError, match="is for vectors of 12 values, those of dinoclip:X=w@d.pt have 13"):
            import_cfm(str(source), config(tmp_path))
    torch.save(torch.zeros(3, 3), source / "D.pth")
    with pytest.raises(CheckpointError, match=r"D.pth is no matrix of 40 x 40"):
        import_cfm(str(source), config(tmp_path))
    (source / "concept_names.txt").write_text("one\ntwo\n")
    with pytest.raises(CheckpointError, match="has 2 lines for 40 concepts"):
        import_cfm(str(source), config(tmp_path))
    torch.save({"encoder.weight": torch.zeros(4, 2)}, source / "ae.pt")
    with pytest.raises(CheckpointError, match="no Matryoshka autoencoder of CFM: it has no W_enc, b_enc"):
        import_cfm(str(source), config(tmp_path))
    torch.save(Path("x"), source / "ae.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        import_cfm(str(source), config(tmp_path))


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    source = write_cfm(tmp_path / "cfm")
    import_cfm(source, config(tmp_path))
    before = load_insight(locate(str(tmp_path / "runs" / "cfm")).uri).fingerprint
    with pytest.raises(ConfigError, match="is taken"):
        import_cfm(source, config(tmp_path))
    assert load_insight(str(tmp_path / "runs" / "cfm")).fingerprint == before
