"""Prediction with contribution maps, B-cos ResNet-18: against the ``bcos`` package, and Integrated Gradients and
Grad-CAM of captum on the same network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.bcos_package import package_heatmaps, package_resnet
from bench.scenario import random_batch, settle_norms
from bench.timing import Options, Result, describe, interleave, relative_error
from raytrain_xai.attribution.attribute import attribute
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

NUM_IMAGES, NUM_CLASSES = 4, 20
INTGRAD_STEPS = 50
TOLERANCE = 2e-5


def run(options: Options) -> list[Result]:
    """One and five classes at 112 pixels, then one class at 224."""
    return [*_compare(options, size=112), *_compare(options, size=224)[:1]]


def _compare(options: Options, *, size: int) -> list[Result]:
    network = build_network("bcos_resnet18", NUM_CLASSES, norm_statistics="batch").to(options.device)
    images = random_batch(
        NUM_IMAGES, size, NUM_CLASSES, num_pairs=NUM_IMAGES, num_annotated=0, device=options.device
    ).images
    settle_norms(network, images)
    peer = package_resnet(network, "resnet18")
    encoded = network.encode(images).detach()
    one = torch.arange(NUM_IMAGES, device=options.device)[:, None]
    five = (one + torch.arange(5, device=options.device)) % NUM_CLASSES
    captum = CaptumPeer(peer, encoded, one[:, 0])
    variants = {
        "ours 1": lambda: our_heatmaps(network, images, one),
        "package 1": lambda: package_heatmaps(peer, encoded, one),
        "ours 5": lambda: our_heatmaps(network, images, five),
        "package 5": lambda: package_heatmaps(peer, encoded, five),
        "gradcam": captum.gradcam,
    }
    timings = interleave(variants, options, repeats=2)
    lines = []
    for count, classes in ((1, one), (5, five)):
        ours, theirs = our_heatmaps(network, images, classes), package_heatmaps(peer, encoded, classes)
        error = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
        name = f"R18@{size}, B {NUM_IMAGES}, {count} class" + ("es" if count > 1 else "")
        detail = describe(timings, f"package {count}", f"ours {count}", "gradcam")
        lines.append(_result(name, timings.ratio(f"package {count}", f"ours {count}"), 1.4, error, detail))
    slow = interleave({"ours": variants["ours 1"], "intgrad": captum.integrated_gradients}, Options(2, options.device))
    name = f"R18@{size}, B {NUM_IMAGES}, captum IG, {INTGRAD_STEPS} steps"
    lines.append(_result(name, slow.ratio("intgrad", "ours"), 60.0, 0.0, describe(slow, "intgrad", "ours")))
    return lines


@torch.no_grad()
def our_heatmaps(network: Network, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and maps of M classes of every image, (B, K) and (B, M, H, W)."""
    tapped = tapped_pass(network, images, "Input")
    if classes.shape[1] == 1:
        maps = attribute(network, tapped, classes[:, 0], None, method="bcos", layer="Input")
        return tapped.logits, maps[:, None]
    rows = torch.arange(len(images), device=images.device).repeat_interleave(classes.shape[1])
    maps = attribute(network, tapped, classes.flatten(), rows, method="bcos", layer="Input")
    return tapped.logits, maps.unflatten(0, classes.shape)


class CaptumPeer:
    """captum on the package's network: ordinary gradients, its own batching."""

    def __init__(self, peer: nn.Module, encoded: Tensor, target: Tensor) -> None:
        from captum.attr import IntegratedGradients, LayerGradCam

        self._encoded = encoded
        self._target = target
        self._intgrad = IntegratedGradients(peer)
        self._gradcam = LayerGradCam(peer, peer.layer4)

    def integrated_gradients(self) -> Tensor:
        """(B, 6, H, W)."""
        return self._intgrad.attribute(
            self._encoded, target=self._target, n_steps=INTGRAD_STEPS, internal_batch_size=NUM_IMAGES * 4
        )

    def gradcam(self) -> Tensor:
        """(B, 1, h, w)."""
        return self._gradcam.attribute(self._encoded, target=self._target)


def _result(case: str, value: float, target: float, error: float, detail: str) -> Result:
    return Result(
        bench="heatmap", case=case, value=value, measure="speed-up", target=target, is_minimum=True, error=error,
        tolerance=TOLERANCE, detail=detail,
    )  # fmt: skip
