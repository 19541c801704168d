"""InternVideo3 for transformers: Qwen3-VL with latent attention (M2LA) in its text layers.

    q            = x W_q + b_q                 each head: [without rope | with rope]
    latent, rope = split(x W_kv_a + b_kv_a)    shared by all heads
    keys, values = latent W_kv_b               each head: [key | value]

The transformers cache holds the latent in place of keys, [B, 1, S, R], and the rotated rope key in
place of values, [B, 1, S, P]. A single new token attends to the latent directly: W_kv_b is applied
to the query and to the result instead of to every cached token.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextRMSNorm,
    eager_attention_forward,
)

from .configuration_internvideo3 import InternVideo3Config


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [B, N, T, P] with adjacent pairs by tables [B, T, P] with half-split pairs."""
    return rotate_halves(torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1), cos, sin)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [B, N, T, P] with pairs half a head apart."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


class M2LA(nn.Module):
    """Latent attention of one text layer."""

    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.heads = heads = config.num_attention_heads
        self.nope, self.rope = config.qk_nope_head_dim, config.qk_rope_head_dim
        ranks = getattr(config, "kv_lora_rank_list", None)
        self.value, self.rank = config.v_head_dim, config.kv_lora_rank
        if ranks:
            self.rank = ranks[layer_idx]
        self.scaling = (self.nope + self.rope) ** -0.5
        width = config.hidden_size
        self.q_proj = nn.Linear(width, heads * (self.nope + self.rope), bias=True)
        self.kv_a_proj_with_mqa = nn.Linear(width, self.rank + self.rope, bias=True)
        self.kv_b_proj = nn.Linear(self.rank, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, width, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Same interface as the attention that it replaces: (output, weights or None)."""
        batch, length, _ = hidden_states.shape
        q_nope, q_rope, latent, k_rope = self.project(hidden_states, *position_embeddings)
        if past_key_values is not None:
            latent, k_rope = past_key_values.update(latent, k_rope, self.layer_idx)
            if length == 1:
                out = self.absorbed(q_nope, q_rope, latent, k_rope, attention_mask)
                return self.o_proj(out.reshape(batch, 1, -1)), None
        kv = self.kv_b_proj(latent[:, 0]).view(batch, -1, self.heads, self.nope + self.value)
        k_nope, v = kv.transpose(1, 2).split((self.nope, self.value), dim=-1)
        k = torch.cat((k_nope, k_rope.expand(-1, self.heads, -1, -1)), dim=-1)
        attend = eager_attention_forward
        if self.config._attn_implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        q = torch.cat((q_nope, q_rope), dim=-1)
        out, weights = attend(
            self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.o_proj(out.reshape(batch, length, -1).contiguous()), weights

    def project(
        self, hidden_states: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries without rope and with, [B, N, T, .], latent and rope key, [B, 1, T, .]."""
        batch, length, _ = hidden_states.shape
        q = self.q_proj(hidden_states).view(batch, length, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
        kv_a = self.kv_a_proj_with_mqa(hidden_states)[:, None]
        latent, k_rope = kv_a.split((self.rank, self.rope), dim=-1)
        return q_nope, rotate(q_rope, cos, sin), latent, rotate(k_rope, cos, sin)

    def absorbed(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """One token attends to the cached latents; the mask is boolean or additive."""
        up = self.kv_b_proj.weight.view(self.heads, self.nope + self.value, self.rank)
        up_key, up_value = up.split((self.nope, self.value), dim=1)
        q_latent = torch.einsum("bnth,nhr->bntr", q_nope, up_key)
        scores = q_latent @ latent.transpose(-1, -2) + q_rope @ k_rope.transpose(-1, -2)
        scores = scores.float() * self.scaling
        if mask is not None:
            mask = mask[..., : scores.shape[-1]]
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            else:
                scores = scores + mask
        context = scores.softmax(-1).to(latent.dtype) @ latent
        return torch.einsum("bntr,nhr->btnh", context, up_value)


class M2LAExact(M2LA):
    """M2LA that keeps QK-norm: its cache is a projection of [rope(norm(k)); v]."""

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width, heads, head = config.hidden_size, self.heads, config.head_dim
        kv_heads, eps = config.qk_norm_key_value_heads, config.rms_norm_eps
        self.q_proj = nn.Linear(width, heads * head, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head, bias=False)
        self.q_norm = Qwen3VLTextRMSNorm(head, eps=eps)
        self.k_norm = Qwen3VLTextRMSNorm(head, eps=eps)
        self.kv_a_proj_with_mqa = nn.Linear(2 * kv_heads * head, self.rank + self.rope, bias=False)
        self.q_rope_proj = PerHeadLinear(heads, head)

    def project(
        self, hidden_states: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, length, _ = hidden_states.shape

        def split(x: Tensor) -> Tensor:
            return x.view(batch, length, -1, self.nope)

        q = self.q_norm(split(self.q_proj(hidden_states))).transpose(1, 2)
        k = self.k_norm(split(self.k_proj(hidden_states))).transpose(1, 2)
        q, k = rotate_halves(q, cos, sin) * 2**0.5, rotate_halves(k, cos, sin)
        keys_values = torch.cat((k.transpose(1, 2), split(self.v_proj(hidden_states))), dim=2)
        cached = self.kv_a_proj_with_mqa(keys_values.flatten(2))[:, None]
        latent, k_rope = cached.split((self.rank, self.rope), dim=-1)
        return q, self.q_rope_proj(q), latent, k_rope


class PerHeadLinear(nn.Module):
    """A separate linear map for each head."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.transpose(-1, -2)


class InternVideo3ForConditionalGeneration(Qwen3VLForConditionalGeneration):
    """Qwen3-VL with latent attention in every text layer."""

    config_class = InternVideo3Config
    # These kernels require keys and values of equal width.
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: InternVideo3Config) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.language_model.layers):
            exact = getattr(config.text_config, "qk_norm_key_value_heads", None)
            layer.self_attn = (M2LAExact if exact else M2LA)(config.text_config, index)
        self.post_init()
