"""Length of reconstructions, followed over steps; counts are tested with the steps that make them."""

from __future__ import annotations

import pytest
import torch

from raytrain_xai.concepts.usage import LatentUsage


def test_gain_makes_reconstructions_as_long_as_vectors() -> None:
    usage = LatentUsage(2)
    assert usage.gain == 1
    usage.follow(torch.tensor(8.0), torch.tensor(2.0))
    assert usage.gain == 2
    usage.follow(torch.tensor(1.08), torch.tensor(4.02))  # 9 to 6: the first step counts .99 by now
    assert float(usage.gain) == pytest.approx((9 / 6) ** 0.5)
