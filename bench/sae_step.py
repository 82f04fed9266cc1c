"""One training step of a TopK autoencoder, D 1024, k 32, 2048 vectors: forward, gradients, Adam, unit rows, counts."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peer_sae import CLIP_NORM, LR, OvercompleteStep, PublishedStep, has_overcomplete
from bench.timing import Options, Result, Timings, describe, interleave, relative_error
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.step import StepSettings, sae_step
from raytrain_xai.concepts.update import apply_update, build_adam, project_gradients
from raytrain_xai.concepts.usage import LatentUsage

DIM, K, VECTORS = 1024, 32, 2048
LATENTS = (8192, 16384)
TOLERANCE = 1e-5  # float32


def run(options: Options) -> list[Result]:
    """For each number of latents: against the published loop, against the library, and against one product."""
    return [result for num_latents in LATENTS for result in _measure(num_latents, options)]


class _OurStep:
    def __init__(self, sae: TopKSae) -> None:
        self.sae, self.optimizer = sae, build_adam(sae)
        self.usage = LatentUsage(sae.num_latents).to(sae.encoder.device)

    def __call__(self, x: Tensor) -> None:
        step = sae_step(self.sae, x, dead=None, settings=StepSettings())
        norm = project_gradients(self.sae, step.gradients)
        apply_update(self.sae, step.gradients, norm, self.optimizer, lr=LR, clip_norm=CLIP_NORM)
        self.usage.update(step.fired, len(x))


def _measure(num_latents: int, options: Options) -> list[Result]:
    torch.manual_seed(0)
    sae = TopKSae(DIM, num_latents, K).to(options.device)
    x = torch.randn(VECTORS, DIM).to(options.device) / DIM**0.5
    published = PublishedStep(sae)
    error = _gradient_error(sae, published, x)
    variants = {"published": lambda: published(x)}
    if has_overcomplete():
        overcomplete = OvercompleteStep(sae)
        variants["overcomplete"] = lambda: overcomplete(x)
    weights = sae.encoder.detach().clone()
    ours = _OurStep(sae)
    timings = interleave({**variants, "product": lambda: x @ weights.T, "ours": lambda: ours(x)}, options)
    case = f"K {num_latents}"
    results = [_speed_up(f"{case}, published loop", "published", 4.0, error, timings)]
    if has_overcomplete():
        results.append(_speed_up(f"{case}, overcomplete", "overcomplete", 3.0, error, timings))
    cost = timings.ratio("ours", "product")
    detail = describe(timings, "product", "ours")
    return [
        *results,
        Result("sae_step", case, cost, "/ one encoder product", 2.0, False, error, TOLERANCE, detail),
    ]


def _speed_up(case: str, peer: str, target: float, error: float, timings: Timings) -> Result:
    value = timings.ratio(peer, "ours")
    return Result(
        "sae_step", case, value, "speed-up", target, True, error, TOLERANCE, describe(timings, peer, "ours")
    )  # fmt: skip


def _gradient_error(sae: TopKSae, published: PublishedStep, x: Tensor) -> float:
    published.gradients(x)
    ours = sae_step(sae, x, dead=None, settings=StepSettings()).gradients
    encoder, decoder = published.encoder.weight.grad, published.decoder.weight.grad
    assert encoder is not None
    assert decoder is not None
    return max(relative_error(ours["encoder"], encoder), relative_error(ours["dictionary"], decoder.T))
