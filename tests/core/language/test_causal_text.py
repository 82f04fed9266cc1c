"""Texts without their padding have the vectors that the library gives them with it."""

from __future__ import annotations

import open_clip
import torch
from clip_cases import DIM, TEXT, VISION, shake, small_clip
from torch import nn

from raytrain_xai.language.causal_text import causal_text, is_causal


def test_the_same_vectors_as_with_padding() -> None:
    """Texts of different lengths, an empty one, and one that is cut off at the end of the context."""
    model = small_clip()
    tokens = open_clip.SimpleTokenizer()(["a dog", "", "two cats on a roof, seen from afar", "word " * 100])
    lengths: list[int] = []
    hook = model.transformer.register_forward_pre_hook(lambda _module, args: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        for part in (tokens, tokens[:3]):
            torch.testing.assert_close(causal_text(model, part), model.encode_text(part, normalize=True))
    hook.remove()
    assert lengths == [77, 77, 11, 77]  # eight words, a comma, start and end


def test_a_projection_with_bias() -> None:
    model = shake(open_clip.model.CLIP(DIM, VISION, {**TEXT, "proj_bias": True}).eval())
    assert isinstance(model.text_projection, nn.Linear)
    tokens = open_clip.SimpleTokenizer()(["a dog"])
    with torch.no_grad():
        torch.testing.assert_close(causal_text(model, tokens), model.encode_text(tokens, normalize=True))


def test_other_towers_are_left_to_the_library() -> None:
    assert is_causal(small_clip())
    for text in ({"no_causal_mask": True}, {"pool_type": "last"}):
        assert not is_causal(open_clip.model.CLIP(DIM, VISION, {**TEXT, **text}))
    assert not is_causal(open_clip.model.CustomTextCLIP(DIM, VISION, TEXT))
