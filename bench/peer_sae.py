"""Training steps of TopK autoencoders that ours is measured against.

``PublishedStep`` is the plain dense formulation of the loop that concept layers were published with (Parchami-Araghi et
al., NeurIPS 2025): products with all latents, ReLU, top-k scattered into a dense code, dense decoder stored D x K,
autograd, projection of the decoder gradient, clipping, Adam, renormalisation. Its count of firings, a loop over rows
there, is one assignment here. ``OvercompleteStep`` is the same step with the autoencoder of the library overcomplete.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec, module_from_spec
from typing import Any

import torch
from torch import Tensor, nn

from raytrain_xai.concepts.sae import TopKSae

LR, CLIP_NORM = 1e-3, 1.0


class PublishedStep:
    """One optimiser step per call."""

    def __init__(self, sae: TopKSae) -> None:
        num_latents, dim = sae.encoder.shape
        device = sae.encoder.device
        self.encoder = nn.Linear(dim, num_latents, bias=False, device=device)
        self.decoder = nn.Linear(num_latents, dim, bias=False, device=device)
        with torch.no_grad():
            self.encoder.weight.copy_(sae.encoder)
            self.decoder.weight.copy_(sae.dictionary.T)
        self.k = sae.k
        self.parameters = [self.encoder.weight, self.decoder.weight]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)
        self.idle = torch.zeros(num_latents, dtype=torch.int64, device=device)

    def gradients(self, x: Tensor) -> Tensor:
        """Leave the gradients of mean ‖x - x'‖² on the parameters; returns the indices (N, k)."""
        active = self.encoder(x).relu()
        top = active.topk(self.k, dim=-1, sorted=False)
        code = torch.zeros_like(active).scatter_(-1, top.indices, top.values)
        loss = (x - self.decoder(code)).square().sum(dim=-1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        return top.indices

    def __call__(self, x: Tensor) -> None:
        """The whole step."""
        indices = self.gradients(x)
        fired = torch.zeros_like(self.idle, dtype=torch.bool)
        fired[indices.flatten()] = True
        self.idle += len(x)
        self.idle[fired] = 0
        weight = self.decoder.weight
        with torch.no_grad():
            assert weight.grad is not None
            unit = weight / weight.norm(dim=0, keepdim=True)
            weight.grad -= (weight.grad * unit).sum(dim=0, keepdim=True) * unit
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        with torch.no_grad():
            weight /= weight.norm(dim=0, keepdim=True)


class OvercompleteStep:
    """One optimiser step per call, as in ``overcomplete.sae.train_sae``; rows are normalised at every forward."""

    def __init__(self, sae: TopKSae) -> None:
        num_latents, dim = sae.encoder.shape
        device = str(sae.encoder.device)
        module = _import_overcomplete_sae()
        encoder = _Products(sae.encoder)
        self.sae = module.TopKSAE(dim, num_latents, top_k=sae.k, encoder_module=encoder, device=device)
        with torch.no_grad():
            self.sae.dictionary._weights.copy_(sae.dictionary)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=LR)
        self.tracker = module.trackers.DeadCodeTracker(num_latents, device)

    def gradients(self, x: Tensor) -> Tensor:
        """Leave the gradients of mean ‖x - x'‖² on the parameters; returns the dense code (N, K)."""
        self.optimizer.zero_grad()
        _, code, reconstruction = self.sae(x)
        (x - reconstruction).square().sum(dim=-1).mean().backward()
        return code

    def __call__(self, x: Tensor) -> None:
        """The whole step."""
        code = self.gradients(x)
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.tracker.update(code)


class _Products(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        products = x @ self.weight.T
        return products, products.relu()


def has_overcomplete() -> bool:
    """Whether the library is installed."""
    return find_spec("overcomplete") is not None


def _import_overcomplete_sae() -> Any:
    """Its autoencoders without its plots, whose import fails with matplotlib 3.11."""
    if "overcomplete.sae" not in sys.modules:
        spec = find_spec("overcomplete")
        assert spec is not None
        sys.modules["overcomplete"] = module_from_spec(spec)
    return importlib.import_module("overcomplete.sae")
