"""Text vectors of CLIP without the work on padding.

CLIP's text tower is causal and reads its answer at the end-of-text token: what stands behind it changes nothing, yet
the library computes all 77 places. A prompt has about ten.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def is_causal(model: Any) -> bool:
    """Whether a model of OpenCLIP reads texts in this way: the class ``CLIP``, mask and pooling as in the paper."""
    return getattr(model, "attn_mask", None) is not None and getattr(model, "text_pool_type", "") == "argmax"


def causal_text(model: Any, tokens: Tensor) -> Tensor:
    """The same vectors as ``model.encode_text(tokens, normalize=True)``.

    Args:
        model: of which :func:`is_causal` holds, in eval mode.
        tokens: (M, context) int64 on the CPU, M > 0; the end of a text is its largest token.
    Returns:
        (M, D) float32 of unit length, on the device of the model.
    """
    ends = tokens.argmax(dim=1)
    length = int(ends.max()) + 1
    code = model.positional_embedding[:length]
    x = model.token_embedding(tokens[:, :length].to(code.device)) + code
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    last = model.ln_final(x[torch.arange(len(x), device=x.device), ends.to(x.device)])
    projection = model.text_projection
    if projection is not None:
        last = projection(last) if isinstance(projection, torch.nn.Linear) else last @ projection
    return F.normalize(last, dim=1)
