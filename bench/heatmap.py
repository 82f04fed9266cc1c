"""Prediction with contribution maps, B-cos ResNets 18 and 50: against the ``bcos`` package, and Integrated Gradients
and Grad-CAM of captum on the same network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
TOLERANCE = 5e-5  # of float32; a deep network amplifies the rounding of either side by more


def run(options: Options) -> list[Result]:
    """One and five classes at 112 pixels, then one class at 224, by the deeper network as well."""
    return [
        *_compare(options, "resnet18", size=112, class_counts=(1, 5), with_intgrad=True),
        *_compare(options, "resnet18", size=224, class_counts=(1,), with_intgrad=False),
        *_compare(options, "resnet50", size=224, class_counts=(1,), with_intgrad=False),
    ]


def _compare(
    options: Options, name: str, *, size: int, class_counts: Sequence[int], with_intgrad: bool
) -> list[Result]:
    network = build_network(f"bcos_{name}", NUM_CLASSES, norm_statistics="batch").to(options.device)
    images = random_batch(
        NUM_IMAGES, size, NUM_CLASSES, num_pairs=NUM_IMAGES, num_annotated=0, device=options.device
    ).images
    settle_norms(network, images)
    peer = package_resnet(network, name)
    encoded = network.encode(images).detach()
    first = torch.arange(NUM_IMAGES, device=options.device)[:, None]
    classes = {count: (first + torch.arange(count, device=options.device)) % NUM_CLASSES for count in class_counts}
    captum = CaptumPeer(peer, encoded, first[:, 0])
    variants: dict[str, Callable[[], object]] = {"gradcam": captum.gradcam}
    for count, chosen in classes.items():
        variants[f"ours {count}"] = lambda chosen=chosen: our_heatmaps(network, images, chosen)
        variants[f"package {count}"] = lambda chosen=chosen: package_heatmaps(peer, encoded, chosen)
    timings = interleave(variants, options, repeats=2)
    lines = []
    for count, chosen in classes.items():
        ours, theirs = our_heatmaps(network, images, chosen), package_heatmaps(peer, encoded, chosen)
        error = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
        case = f"{name}@{size}, B {NUM_IMAGES}, {count} class" + ("es" if count > 1 else "")
        detail = describe(timings, f"package {count}", f"ours {count}", "gradcam")
        lines.append(_result(case, timings.ratio(f"package {count}", f"ours {count}"), 1.4, error, detail))
    if with_intgrad:
        slow = {"ours": variants["ours 1"], "intgrad": captum.integrated_gradients}
        timings = interleave(slow, Options(2, options.device))
        case = f"{name}@{size}, B {NUM_IMAGES}, captum IG, {INTGRAD_STEPS} steps"
        lines.append(_result(case, timings.ratio("intgrad", "ours"), 60.0, 0.0, describe(timings, "intgrad", "ours")))
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
