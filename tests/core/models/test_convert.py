"""Files as other codes leave them: what is read, what is refused, and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.models.convert import convert_classifier, convert_concept_layer
from raytrain_xai.models.weights import read_state_dict
from raytrain_xai.models.zoo import build_network

State = dict[str, Tensor]


def tiny(seed: int = 0, num_classes: int = 20) -> State:
    torch.manual_seed(seed)
    return build_network("bcos_resnet_tiny", num_classes).net.state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


FORMS = {
    "model guidance": lambda s: {"model": under("0.", s), "f1": 0.7, "layer": "Input", "metrics": {"EPG": 0.4}},
    "B-cos v2, Lightning": lambda s: {"state_dict": under("model.", s), "epoch": 3, "pytorch-lightning_version": "1.9"},
    "e2KD, with its teacher": lambda s: {
        "state_dict": under("model.", s) | under("teacher_model.", tiny(1)) | {"eval_acc1.tp": torch.zeros(1)},
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}}],
    },
    "e2KD transformer": lambda s: {"state_dict": under("model.0.", s)},
    "averaged": lambda s: {
        "state_dict": under("ema.module.", s) | under("model.", tiny(1)) | {"ema.n_averaged": torch.tensor(5)}
    },
    "compiled": lambda s: under("_orig_mod.", s),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".pth", ".ckpt", ".pth.tar"])
def test_classifiers_come_out_with_public_keys(form: str, ending: str, tmp_path: Path) -> None:
    state = tiny()
    torch.save(FORMS[form](state), tmp_path / f"w{ending}")
    out = tmp_path / "out.safetensors"
    assert convert_classifier(str(tmp_path / f"w{ending}"), "bcos_resnet_tiny", str(out)) == 20
    written = load_file(out)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    with safe_open(out, "pt") as file:
        assert file.metadata() == {"architecture": "bcos_resnet_tiny", "num_classes": "20"}
    build_network("bcos_resnet_tiny", 20, weights=str(out))


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("densenet121", lambda key: key.replace("norm1", "norm.1").replace("conv1", "conv.1")
         .replace("norm2", "norm.2").replace("conv2", "conv.2") if "denselayer" in key else key),
        ("vit_b_32", lambda key: key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")),
    ],
)  # fmt: skip
def test_torchvisions_older_keys_are_renamed(name: str, older, tmp_path: Path) -> None:
    with torch.device("meta"):
        keys = list(getattr(torchvision.models, name)().state_dict())
    torch.save({older(key): torch.tensor(float(number)) for number, key in enumerate(keys)}, tmp_path / "w.pth")
    found = read_state_dict(str(tmp_path / "w.pth"), architecture=name)
    assert {key: int(value) for key, value in found.items()} == {key: number for number, key in enumerate(keys)}
    assert any(older(key) != key for key in keys)


def test_another_architecture_is_refused_and_nothing_written(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "w.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=r"w.pth are not those of resnet18: .*set model.name to the architecture"):
        convert_classifier(str(tmp_path / "w.pth"), "resnet18", str(out))
    with pytest.raises(CheckpointError, match=r"not those of bcos_resnet18: \d+ missing .*of another shape"):
        convert_classifier(str(tmp_path / "w.pth"), "bcos_resnet18", str(out))
    with pytest.raises(ConfigError, match="unknown model 'bcos_resnet9'"):
        convert_classifier(str(tmp_path / "w.pth"), "bcos_resnet9", str(out))
    assert not out.exists()


def test_a_lightning_file_with_objects_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": tiny(), "hyper_parameters": {"optimizer": Path("x")}}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"w.ckpt holds more than tensors, and unpickling it could run code"):
        convert_classifier(str(tmp_path / "w.ckpt"), "bcos_resnet_tiny", str(tmp_path / "o.safetensors"))


def layer() -> dict[str, object]:
    torch.manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(6, 24), dim=0)
    return {
        "encoder.weight": decoder.T.contiguous(), "decoder.weight": decoder, "k": torch.tensor(4),
        "threshold": torch.tensor(-1.0), "log": {"l0": 4.0},
    }  # fmt: skip


def test_concept_layers_of_fact(tmp_path: Path) -> None:
    torch.save(layer(), tmp_path / "v0.1-resnet50_long-layer4-BiasFreeTopK-K24-S4-LR0.001.pt")
    out = tmp_path / "sae.safetensors"
    source = str(next(tmp_path.glob("*.pt")))
    assert convert_concept_layer(source, str(out)) == (24, 6, 4)
    written = load_file(out)
    assert {key: tuple(value.shape) for key, value in written.items()} == {
        "encoder.weight": (24, 6), "decoder.weight": (6, 24),
    }  # fmt: skip
    assert torch.equal(written["decoder.weight"], torch.as_tensor(layer()["decoder.weight"]))
    with safe_open(out, "pt") as file:
        assert file.metadata() == {"format": "topk_sae", "k": "4"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder.bias": torch.zeros(24)},
            r"holds no concept layer without bias \(its keys: decoder.weight, encoder.b",
        ),
        ({"k": None}, "holds no concept layer"),
        ({"k": torch.tensor(25)}, r"is damaged: encoder \(24, 6\), decoder \(6, 24\), k 25"),
        ({"decoder.weight": torch.zeros(5, 24)}, r"is damaged: encoder \(24, 6\), decoder \(5, 24\)"),
    ],
)
def test_what_is_no_concept_layer_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    torch.save(layer() | change, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=rf"w.pt {message}.*expected encoder.weight \(K, C\)"):
        convert_concept_layer(str(tmp_path / "w.pt"), str(tmp_path / "o.safetensors"))
    torch.save([1], tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w.pt holds no concept layer \(found list\)"):
        convert_concept_layer(str(tmp_path / "w.pt"), str(tmp_path / "o.safetensors"))
