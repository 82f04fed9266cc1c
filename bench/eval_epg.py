"""EPG, IoU and F1 of a batch, B-cos ResNet-18 at 112 pixels, against one whole-batch gradient per (image, class)."""

from __future__ import annotations

from bench.peer import peer_network
from bench.peer_loops import LoopMetrics, loop_evaluate
from bench.scenario import random_batch, settle_norms
from bench.timing import Options, Result, describe, interleave
from raytrain_xai.guidance.classification import micro_scores
from raytrain_xai.guidance.evaluate import evaluate
from raytrain_xai.guidance.metrics import IOU_THRESHOLDS
from raytrain_xai.models.bcos_resnet import BcosResNet
from raytrain_xai.models.zoo import build_network

SIZE, NUM_IMAGES, NUM_PAIRS, NUM_CLASSES = 112, 16, 54, 20
TARGET = 12.0
TOLERANCE = 1e-4  # one pixel at the threshold moves an IoU by about 1e-4


def run(options: Options) -> list[Result]:
    """The Input layer."""
    network = build_network("bcos_resnet18", NUM_CLASSES, norm_statistics="batch").to(options.device)
    batch = random_batch(NUM_IMAGES, SIZE, NUM_CLASSES, num_pairs=NUM_PAIRS, num_annotated=0, device=options.device)
    settle_norms(network, batch.images)
    assert isinstance(network.net, BcosResNet)
    network.net.logit_layer.bias = 0.0  # a random network predicts nothing with the bias of 1/K, and F1 would be 0
    peer = peer_network(network)

    def ours() -> LoopMetrics:
        state = evaluate(network, [batch], method="bcos", layer="Input", device=options.device)
        num_pairs = int(state.pair_count)
        iou = float(state.iou_sum[IOU_THRESHOLDS.index(0.5)]) / num_pairs
        return LoopMetrics(float(state.epg_sum) / num_pairs, iou, micro_scores(state.scores, state.labels)["f1"])

    def plain() -> LoopMetrics:
        return loop_evaluate(peer, batch, method="bcos", layer="Input")

    error = _difference(ours(), plain())
    timings = interleave({"ours": ours, "peer": plain}, options)
    return [
        Result(
            bench="eval_epg",
            case=f"R18@{SIZE}, B {NUM_IMAGES}, {NUM_PAIRS} pairs",
            value=timings.ratio("peer", "ours"),
            measure="speed-up",
            target=TARGET,
            is_minimum=True,
            error=error,
            tolerance=TOLERANCE,
            detail=describe(timings, "peer", "ours"),
        )
    ]


def _difference(a: LoopMetrics, b: LoopMetrics) -> float:
    """Largest relative difference of a metric; infinite where the peer's is 0, which would compare nothing."""
    pairs = ((a.epg, b.epg), (a.iou, b.iou), (a.f1, b.f1))
    return max(abs(x - y) / y if y > 0 else float("inf") for x, y in pairs)
