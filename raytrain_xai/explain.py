"""From images to explanations with a trained network: what ``explain``, the report and services call.

All (image, class) pairs of a call share one forward pass and one walk back; no hooks, no autograd, no state that
outlives the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.attribution.attribute import attribute, check_attribution
from raytrain_xai.attribution.explanation_image import explanation_image
from raytrain_xai.attribution.tapped import TappedPass, contract_channels, tapped_pass
from raytrain_xai.checkpoint import checkpoint_name, load_network
from raytrain_xai.config import RunConfig
from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.explained_classes import chosen_pairs, require_finite
from raytrain_xai.guidance.postprocess import localise_map
from raytrain_xai.models.bcos_layers import logit_bias
from raytrain_xai.models.linearise import take_rows
from raytrain_xai.models.network import Network
from raytrain_xai.run_folder import CHECKPOINTS, open_run
from raytrain_xai.types import ClassExplanation, Explanation

RGBA_SMOOTH = 3  # odd window, pixels: enough to remove single-pixel noise, published figures use 3 to 15


@dataclass(frozen=True)
class AttributedPairs:
    """Tensors of R explained (image, class) pairs on the device; see :class:`ClassExplanation` for the fields."""

    maps: Tensor
    residuals: Tensor | None
    rgba: Tensor | None


class Explainer:
    """A trained network with the attribution it was measured with.

    Args:
        network: in evaluation mode, on the device that is to be used.
        classes: names, in the order of the logits.
        image_size: side of the square network input, pixels.
        method: attribution method; B-cos networks take ``bcos`` only.
        layer: tap at which attributions are taken.
        intgrad_steps: integration steps of ``intgrad``.
        origin: where the weights came from, for the records that callers keep.
        shorter: side to which the shorter one is scaled before the central square of ``image_size`` is cut out; None
            squeezes pictures to a square.
        exclusive: classes compete, as those of a network trained with cross-entropy, or by softmax distillation alone.
    Raises:
        ConfigError: method or layer do not fit the network, or the number of class names does not.
    """

    def __init__(
        self, network: Network, *, classes: Sequence[str], image_size: int, method: str, layer: str,
        intgrad_steps: int = 8, origin: str = "", shorter: int | None = None, exclusive: bool = False,
    ) -> None:  # fmt: skip
        check_attribution(network, method, layer)
        if len(classes) != network.num_classes:
            raise ConfigError(f"{len(classes)} class names for the {network.num_classes} outputs of {network.name}")
        self.network = network.eval()
        self.classes = tuple(classes)
        self.image_size = image_size
        self.method = method
        self.layer = layer
        self.intgrad_steps = intgrad_steps
        self.origin = origin
        self.shorter = shorter
        self.exclusive = exclusive

    @classmethod
    def load(cls, run: str, *, which: str = "selected", device: torch.device | str = "cpu") -> Self:
        """The network of a run folder (local or s3://), with the attribution the run was trained and measured with.

        Args:
            run: run folder, ``<storage>/<name>``.
            which: ``selected``, ``last`` or the name of a checkpoint (``step-00000120``).
            device: where the network is put.
        Raises:
            ConfigError: not a run folder.
            CheckpointError: no such checkpoint, or it is damaged.
        """
        network, config, info, _ = load_network(run, which=which, device=torch.device(device))
        origin = open_run(run).child(CHECKPOINTS, checkpoint_name(info["step"])).uri
        return cls.of_run(network, config, info, origin=origin)

    @classmethod
    def of_run(cls, network: Network, config: RunConfig, info: Mapping[str, Any], *, origin: str) -> Self:
        """As :meth:`load`, from what :func:`~raytrain_xai.checkpoint.load_network` returned."""
        return cls(
            network,
            classes=info["classes"],
            image_size=config.data.image_size,
            method=config.guidance.attribution or network.default_attribution,
            layer=config.guidance.layer,
            intgrad_steps=config.guidance.intgrad_steps,
            origin=origin,
            shorter=config.data.eval_resize,
            exclusive=not config.fixes_logits,
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, C) float -> same in [0, 1]: sigmoid of each logit, or softmax where classes are exclusive."""
        return logits.softmax(dim=1) if self.exclusive else logits.sigmoid()

    def __call__(
        self, images: Tensor | Sequence[Image.Image], *, names: Sequence[str] = (), top: int = 1
    ) -> list[Explanation]:
        """Explain a batch.

        Args:
            images: (B, 3, H, W) uint8 RGB, or B pictures of any size and mode; resized to the network's input.
            names: classes explained for every image.
            top: besides, the classes with the largest logits of each image; 0 for none.
        Raises:
            ConfigError: unknown class name, or nothing to explain.
            DataError: ``images`` is not uint8 RGB.
            CheckpointError: the network answers with non-finite logits.
        """
        wanted = [self.class_index(name) for name in names]
        images = self.prepare(images)
        tapped = self._forward(images)
        rows, target = chosen_pairs(tapped.logits, wanted, top)
        return self._collect(tapped.logits, rows, target, self.explain_pairs(images, tapped, target, rows))

    def attribute(self, images: Tensor, target: Tensor) -> tuple[Tensor, AttributedPairs]:
        """Explain one given class per image.

        Args:
            images: (B, 3, H, W) uint8 of the network's image size.
            target: (B,) int64 class indices.
        Returns:
            logits (B, C) and the pairs, row b for image b.
        """
        images, target = images.to(self.device), target.to(self.device)
        tapped = self._forward(images)
        return tapped.logits, self.explain_pairs(images, tapped, target)

    @torch.no_grad()
    def explain_pairs(
        self, images: Tensor, tapped: TappedPass, target: Tensor, rows: Tensor | None = None
    ) -> AttributedPairs:
        """Explain (image, class) pairs of a forward pass that was made.

        Args:
            images: (B, 3, H, W) uint8 of the network's image size, on its device.
            tapped: :func:`~raytrain_xai.attribution.tapped.tapped_pass` of ``images`` at ``self.layer``.
            target: (R,) int64 class indices.
            rows: (R,) int64 image of each pair; None: the whole batch in order.
        """
        if not self.network.is_bcos:
            return AttributedPairs(self._maps(tapped, target, rows), None, None)
        at_input = tapped if self.layer == "Input" else tapped_pass(self.network, images, "Input")
        x, weights = at_input.rows_of_features(rows), at_input.gradient(target, rows)
        contribution = contract_channels(x, weights)
        logits = take_rows(at_input.logits, rows).gather(1, target[:, None]).squeeze(1)
        missing = contribution.sum(dim=(1, 2)) + logit_bias(self.network.net) - logits
        maps = contribution if self.layer == "Input" else self._maps(tapped, target, rows)
        rgba = (explanation_image(x, weights, smooth=RGBA_SMOOTH) * 255).round().to(torch.uint8)
        return AttributedPairs(maps, missing.abs(), rgba)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What :meth:`prepare` does to a picture, as JSON for programs that cannot call it."""
        return {
            "image_size": self.image_size,
            "layout": "(B, 3, H, W) uint8, RGB",
            "resize": "bilinear with antialiasing, "
            + (
                "to image_size x image_size, aspect ratio ignored"
                if self.shorter is None
                else f"shorter side to {self.shorter}; then the central image_size x image_size"
            ),
        }

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def class_index(self, name: str) -> int:
        """Position of a class in the logits.

        Raises:
            ConfigError: unknown name; the message lists the classes.
        """
        if name not in self.classes:
            raise ConfigError(f"unknown class {name!r}; the classes of this network are {', '.join(self.classes)}")
        return self.classes.index(name)

    def prepare(self, images: Tensor | Sequence[Image.Image]) -> Tensor:
        """(B, 3, S, S) uint8 on the network's device, resized as the data set's images are."""
        if isinstance(images, Tensor):
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
                raise DataError(f"expected (B, 3, H, W) uint8 images, got {tuple(images.shape)} {images.dtype}")
            pictures = list(images.cpu())
        else:
            pictures = [torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in images]
        views = [centre_image(picture, self.image_size, self.shorter) for picture in pictures]
        return torch.stack(views).to(self.device)

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture of this size that the network sees: left, top, right, bottom in pixels."""
        if self.shorter is None:
            return 0.0, 0.0, float(width), float(height)
        side = min(width, height) * self.image_size / self.shorter
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def visible(self, picture: Image.Image) -> Image.Image:
        """The part of a picture that the network sees, at its own resolution: what maps are to be laid over."""
        if self.shorter is None:
            return picture
        left, top, right, bottom = self.seen(*picture.size)
        return picture.crop((round(left), round(top), round(right), round(bottom)))

    @torch.no_grad()
    def _forward(self, images: Tensor) -> TappedPass:
        tapped = tapped_pass(self.network, images, self.layer)
        require_finite(self.network, tapped.logits)
        return tapped

    def _maps(self, tapped: TappedPass, target: Tensor, rows: Tensor | None) -> Tensor:
        attr = attribute(
            self.network, tapped, target, rows, method=self.method, layer=self.layer,
            intgrad_steps=self.intgrad_steps,
        )  # fmt: skip
        return localise_map(attr, (self.image_size, self.image_size), None, "canonical")

    def _collect(self, logits: Tensor, rows: Tensor, target: Tensor, pairs: AttributedPairs) -> list[Explanation]:
        """Per image, with its classes in order of their logits; one transfer from the device per tensor."""
        logits, maps = logits.float().cpu(), pairs.maps.float().cpu()
        probabilities = self.probabilities(logits)
        positive, total = maps.clamp(min=0).sum(dim=(1, 2)), maps.abs().sum(dim=(1, 2))
        share = torch.where(total > 0, positive / total, 0.0)
        residuals = None if pairs.residuals is None else pairs.residuals.cpu()
        rgba = None if pairs.rgba is None else pairs.rgba.cpu()
        found: list[list[ClassExplanation]] = [[] for _ in range(len(logits))]
        for pair, (row, index) in enumerate(zip(rows.tolist(), target.tolist(), strict=True)):
            found[row].append(
                ClassExplanation(
                    name=self.classes[index],
                    index=index,
                    logit=float(logits[row, index]),
                    probability=float(probabilities[row, index]),
                    attribution=maps[pair],
                    positive_share=float(share[pair]),
                    completeness_residual=None if residuals is None else float(residuals[pair]),
                    rgba=None if rgba is None else rgba[pair],
                )
            )
        ordered = [tuple(sorted(classes, key=lambda explained: -explained.logit)) for classes in found]
        return [Explanation(logits[b], probabilities[b], classes) for b, classes in enumerate(ordered)]


def available_device() -> torch.device:
    """The first CUDA device when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
