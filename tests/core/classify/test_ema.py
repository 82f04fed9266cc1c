"""The averaged network against the recurrence written out."""

from __future__ import annotations

import torch

from raytrain_xai.classify.ema import AveragedNetwork
from raytrain_xai.models.zoo import build_network


def shift(network: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(torch.tensor(by, dtype=value.dtype) if value.is_floating_point() else 1)


def test_copies_in_warm_up_then_averages_every_few_steps() -> None:
    """Updates after steps 2, 4, 6 (of 1 ...); the first is within the warm-up of three steps and copies."""
    network = build_network("bcos_resnet_tiny", 3, norm_statistics="batch")
    average = AveragedNetwork(network, decay=0.75, every_steps=2, first_step=3)
    start = network.net.state_dict()["conv1.linear.weight"].clone()
    statistic = network.net.state_dict()["bn1.running_var"].clone()
    counter = network.net.state_dict()["bn1.num_batches_tracked"].clone()
    expected = 0.0
    for step in range(6):
        shift(network.net, 1.0)
        average.after_step(network, step)
        done = step + 1.0
        if step == 1:
            expected = done
        elif step in (3, 5):
            expected = 0.75 * expected + 0.25 * done
        state = average.network.net.state_dict()
        torch.testing.assert_close(state["conv1.linear.weight"], start + expected)
        torch.testing.assert_close(state["bn1.running_var"], statistic + expected)
        assert state["bn1.num_batches_tracked"] == counter + (step + 1) // 2 * 2
    assert expected == 0.75 * (0.75 * 2 + 0.25 * 4) + 0.25 * 6


def test_the_average_is_a_network_of_its_own_in_evaluation_mode() -> None:
    network = build_network("bcos_resnet_tiny", 3, norm_statistics="batch").train()
    average = AveragedNetwork(network, decay=0.9, every_steps=1, first_step=0)
    assert not average.network.training and network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = average.network(images)
    shift(network.net, 0.5)
    assert torch.equal(average.network(images), before)
    average.follow(network)
    torch.testing.assert_close(average.network(images), network.eval()(images))
    assert not torch.allclose(average.network(images), before), "nothing of the old weights is kept from evaluation"
