"""InternVideo3 for transformers: Qwen3-VL whose text layers keep a latent of the past (M2LA).

    q            = x W_q + b_q                 each head: [without rope | with rope]
    latent, rope = split(x W_kv_a + b_kv_a)    one of each for all heads
    keys, values = latent W_kv_b               each head: [key | value]

A cache of transformers holds the latent where keys go, [B, 1, S, R], and the rotated rope key where
values go, [B, 1, S, P]. A single new token is answered from the latent itself: W_kv_b is applied to
the query and to the result instead of to every cached token.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextRMSNorm,
    eager_attention_forward,
)

from .configuration_internvideo3 import InternVideo3Config


def rotate(x, cos, sin):
    """Turns x [B, N, T, P], whose pairs are adjacent, by tables [B, T, P] of half-split pairs."""
    return rotate_halves(torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1), cos, sin)


def rotate_halves(x, cos, sin):
    """Turns x [B, N, T, P], whose pairs are half a head apart."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


class M2LA(nn.Module):
    """The attention of one text layer."""

    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config, layer_idx):
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
        hidden_states,
        position_embeddings,
        attention_mask=None,
        past_key_values=None,
        **kwargs,
    ):
        """As the attention that it replaces: (output, weights or None)."""
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

    def project(self, hidden_states, cos, sin):
        """Queries without rope and with, [B, N, T, .], and what is cached, [B, 1, T, .]."""
        batch, length, _ = hidden_states.shape
        q = self.q_proj(hidden_states).view(batch, length, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
        kv_a = self.kv_a_proj_with_mqa(hidden_states)[:, None]
        latent, k_rope = kv_a.split((self.rank, self.rope), dim=-1)
        return q_nope, rotate(q_rope, cos, sin), latent, rotate(k_rope, cos, sin)

    def absorbed(self, q_nope, q_rope, latent, k_rope, mask):
        """One token over the cached latents; mask as added to or kept of the scores, or None."""
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
        seen = scores.softmax(-1).to(latent.dtype) @ latent
        return torch.einsum("bntr,nhr->btnh", seen, up_value)


class M2LAExact(M2LA):
    """M2LA that keeps the norms of its source: the cache is a projection of [rope(norm(k)); v]."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        width, heads, head = config.hidden_size, self.heads, config.head_dim
        kept, eps = config.qk_norm_key_value_heads, config.rms_norm_eps
        self.q_proj = nn.Linear(width, heads * head, bias=False)
        self.k_proj = nn.Linear(width, kept * head, bias=False)
        self.v_proj = nn.Linear(width, kept * head, bias=False)
        self.q_norm = Qwen3VLTextRMSNorm(head, eps=eps)
        self.k_norm = Qwen3VLTextRMSNorm(head, eps=eps)
        self.kv_a_proj_with_mqa = nn.Linear(2 * kept * head, self.rank + self.rope, bias=False)
        self.q_rope_proj = ByHead(heads, head)

    def project(self, hidden_states, cos, sin):
        batch, length, _ = hidden_states.shape

        def split(x):
            return x.view(batch, length, -1, self.nope)

        q = self.q_norm(split(self.q_proj(hidden_states))).transpose(1, 2)
        k = self.k_norm(split(self.k_proj(hidden_states))).transpose(1, 2)
        q, k = rotate_halves(q, cos, sin) * 2**0.5, rotate_halves(k, cos, sin)
        whole = torch.cat((k.transpose(1, 2), split(self.v_proj(hidden_states))), dim=2)
        kept = self.kv_a_proj_with_mqa(whole.flatten(2))[:, None]
        latent, k_rope = kept.split((self.rank, self.rope), dim=-1)
        return q, self.q_rope_proj(q), latent, k_rope


class ByHead(nn.Module):
    """A map of every head for itself."""

    def __init__(self, heads, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, width, width))

    def forward(self, x):
        return x @ self.weight.transpose(-1, -2)


class InternVideo3ForConditionalGeneration(Qwen3VLForConditionalGeneration):
    """Qwen3-VL with latent attention in every text layer."""

    config_class = InternVideo3Config
    # Their kernels want keys and values of one width.
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config):
        super().__init__(config)
        for number, layer in enumerate(self.model.language_model.layers):
            exact = getattr(config.text_config, "qk_norm_key_value_heads", None)
            layer.self_attn = (M2LAExact if exact else M2LA)(config.text_config, number)
        self.post_init()
