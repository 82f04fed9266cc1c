"""The strongest tokens of every latent against sorting all of them."""

from __future__ import annotations

import torch

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.top_tokens import merge_top, top_images, top_tokens, unpack_tokens

LATENTS, IMAGES, POSITIONS = 11, 6, 20


def code_with_ties(seed: int = 0) -> SparseCode:
    """Values of eight steps, so that many tokens are equally strong."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(IMAGES, POSITIONS, LATENTS, generator=generator).topk(3, dim=2).indices
    values = torch.randint(-2, 8, (IMAGES, POSITIONS, 3), generator=generator).clamp(min=0) / 4
    return SparseCode(values, indices, LATENTS)


def sorted_tokens(code: SparseCode, latent: int, first: int) -> list[tuple[float, int]]:
    """(value, number) of all tokens at which a latent is active, strongest first, equal ones by number."""
    values = code.dense()[..., latent].flatten().tolist()
    found = [(value, first + number) for number, value in enumerate(values) if value > 0]
    return sorted(found, key=lambda one: (-one[0], one[1]))


def listed(top: torch.Tensor, latent: int) -> list[tuple[float, int]]:
    values, numbers = unpack_tokens(top)
    return [(v, n) for v, n in zip(values[latent].tolist(), numbers[latent].tolist(), strict=True) if n >= 0]


def test_strongest_tokens() -> None:
    code = code_with_ties()
    top = top_tokens(code, 1000, 5)
    for latent in range(LATENTS):
        assert listed(top, latent) == sorted_tokens(code, latent, 1000)[:5]


def test_strongest_token_of_each_image() -> None:
    code = code_with_ties()
    top = top_images(code, 0, 4)
    for latent in range(LATENTS):
        best: dict[int, tuple[float, int]] = {}
        for value, number in sorted_tokens(code, latent, 0):
            best.setdefault(number // POSITIONS, (value, number))
        assert listed(top, latent) == sorted(best.values(), key=lambda one: (-one[0], one[1]))[:4]


def test_any_division_of_the_images_gives_the_same() -> None:
    code = code_with_ties(1)
    for count in (1, 3, 40):
        whole = top_tokens(code, 0, count)
        for size in (1, 4):
            rows = torch.arange(IMAGES).split(size)
            parts = [top_tokens(code.rows(own), int(own[0]) * POSITIONS, count) for own in rows]
            assert torch.equal(merge_top(parts), whole)
            assert torch.equal(merge_top(parts[::-1]), whole)


def test_nothing_active() -> None:
    code = SparseCode(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1, dtype=torch.int64), 4)
    assert top_tokens(code, 0, 2).tolist() == top_images(code, 0, 2).tolist() == [[0, 0]] * 4
    values, numbers = unpack_tokens(top_tokens(code, 0, 2))
    assert (values.tolist(), numbers.tolist()) == ([[0, 0]] * 4, [[-1, -1]] * 4)


def test_numbers_of_published_size_are_kept() -> None:
    """CC12M has 2.1e9 tokens: beyond int32."""
    code = SparseCode(torch.tensor([[[0.7]]]), torch.tensor([[[2]]]), 3)
    values, numbers = unpack_tokens(top_tokens(code, 4_000_000_000, 1))
    assert numbers.tolist() == [[-1], [-1], [4_000_000_000]]
    assert values[2].item() == torch.tensor(0.7).item()
