"""Linear views of layers of torch that transformers and ConvNeXts use: the ordinary gradient, row by row.

They apply to the layers themselves. A subclass may compute something else with the same attributes, so it goes through
autograd unless it has a rule of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raytrain_xai.models.attention import standard_attention
from raytrain_xai.models.linearise import Pullback, linearise, take_rows

_by_autograd = linearise.dispatch(object)


@linearise.register(nn.GELU)
def _(module: nn.GELU, x: Tensor) -> tuple[Tensor, Pullback]:
    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        return torch.ops.aten.gelu_backward(g, take_rows(x, rows).to(g.dtype), approximate=module.approximate)

    return module(x), pullback


@linearise.register(nn.LayerNorm)
def _(module: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Pullback]:
    if type(module) is not nn.LayerNorm:
        return _by_autograd(module, x)
    weight, bias, shape = module.weight, module.bias, list(module.normalized_shape)
    kept = x.dtype
    x = x.to(weight.dtype if module.elementwise_affine else x.dtype).contiguous()  # statistics in the wider type
    out, mean, inverse_std = torch.native_layer_norm(x, shape, weight, bias, module.eps)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        inputs, means, factors = (take_rows(record, rows) for record in (x, mean, inverse_std))
        return torch.ops.aten.native_layer_norm_backward(
            g.to(x.dtype).contiguous(), inputs, shape, means, factors, weight, bias, (True, False, False)
        )[0]

    return out.to(kept), pullback


@linearise.register(nn.GroupNorm)
def _(module: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Pullback]:
    if type(module) is not nn.GroupNorm:
        return _by_autograd(module, x)
    axes = tuple(range(2, x.dim() + 1))
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (module.num_groups, -1))
    centred = groups - groups.mean(axes, keepdim=True)
    inverse_std = (centred.square().mean(axes, keepdim=True) + module.eps).rsqrt()

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        factor = take_rows(inverse_std, rows)
        unit = take_rows(centred, rows) * factor
        h = g * module.weight.view(-1, *[1] * (g.dim() - 2)) if module.affine else g
        h = h.unflatten(1, (module.num_groups, -1))
        back = h - h.mean(axes, keepdim=True) - unit * (h * unit).mean(axes, keepdim=True)
        return (back * factor).flatten(1, 2).to(g.dtype)

    return module(x), pullback


@linearise.register(nn.MultiheadAttention)
def _(module: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Pullback]:
    """Self-attention, (B, n, D) -> (B, n, D); the module takes its input as queries, keys and values."""
    has_one_width = module.embed_dim == module.kdim == module.vdim
    is_plain = has_one_width and module.bias_k is None and not module.add_zero_attn
    if not (is_plain and module.batch_first and (module.dropout == 0 or not module.training)):
        raise TypeError("only batch-first self-attention of one width, without dropout and extra tokens, has a rule")
    qkv = nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias)
    mixed, pull_attention = standard_attention(qkv, module.num_heads)
    out, pull_out = linearise(module.out_proj, mixed)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        to_qkv = pull_attention(pull_out(g, rows), rows)
        return to_qkv @ module.in_proj_weight.to(to_qkv.dtype)

    return out, pullback
