"""torchvision's networks, by the names they have there.

Modules ``standard_<family>`` build them, cut them into stages and hold the linear views of their blocks. torchvision is
imported when a network is built, so that the core works without it.
"""

from __future__ import annotations

from raytrain_xai.models import (
    standard_convnext,
    standard_densenet,
    standard_resnet,
    standard_squeezenet,
    standard_vgg,
    standard_vit,
)
from raytrain_xai.models.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    **standard_resnet.ARCHITECTURES,
    **standard_densenet.ARCHITECTURES,
    **standard_vgg.ARCHITECTURES,
    **standard_vit.ARCHITECTURES,
    **standard_convnext.ARCHITECTURES,
    **standard_squeezenet.ARCHITECTURES,
}
