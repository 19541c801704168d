"""Model sizes as plain values, and named presets.

`8b` is InternVideo3-8B (OpenGVLab/InternVideo, InternVideo3_sft: Qwen3Dense8BMLAConfig,
internvideo3_config.py): 9.48 G parameters with latent attention, 8.77 G with grouped attention
(Qwen3-VL-8B). `2b`, `4b` and `32b` are the other dense models of Qwen3-VL. InternVideo3 publishes
no latent version of these. Ours use the same rule, R + P = K H, half the cache of grouped
attention: 896 + 128 in each, since all have 8 key-value heads of 128.

`tiny` has every part of the large models at a size that two CPU cores train in minutes. `small` is
larger, as a teacher for `tiny`. `20m` is deeper and wider than both, for one GPU.
"""

import dataclasses
from typing import Any

ATTENTIONS = ("m2la", "m2la_exact", "gqa")


@dataclasses.dataclass(frozen=True)
class VisionSpec:
    """The vision tower. `taps` are the indices of the blocks whose outputs feed DeepStack."""

    depth: int
    width: int
    heads: int
    mlp: int
    taps: tuple[int, ...]
    table_side: int

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"vision width {self.width} with {self.heads} heads: the head width must be a"
                " multiple of 4"
            )
        taps = set(self.taps)
        if len(taps) < len(self.taps) or any(not 0 <= tap < self.depth for tap in taps):
            raise ValueError(
                f"vision taps {self.taps} must be block indices below the depth"
                f" {self.depth}, each at most once"
            )


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """The decoder.

    Attributes:
      attention: `m2la` (latent, the released parameterization), `m2la_exact` (latent with the
        source's QK-norm and rope; ours) or `gqa` (grouped with QK-norm, as in Qwen3-VL).
      head_dim: H, the width of keys without rope, of values, and of the rope part P.
      kv_heads: K, for grouped attention and for `m2la_exact`.
      kv_rank: R, for latent attention; the cache holds R + P numbers per token.
      mrope_sections: numbers of the P / 2 frequencies that belong to time, height and width.
      norm_eps: epsilon of the RMS norms.
      tied: whether the output matrix is the embedding table.
    """

    attention: str
    depth: int
    width: int
    heads: int
    head_dim: int
    kv_heads: int
    kv_rank: int
    mlp: int
    vocab: int
    rope_theta: float
    mrope_sections: tuple[int, int, int]
    norm_eps: float = 1e-6
    tied: bool = False

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention {self.attention!r} is not one of {', '.join(ATTENTIONS)}")
        if sum(self.mrope_sections) != self.head_dim // 2:
            raise ValueError(
                f"mrope sections {self.mrope_sections} must sum to"
                f" head_dim / 2 = {self.head_dim // 2}"
            )
        # Height and width use every third frequency, from the start.
        limit = [len(range(axis, self.head_dim // 2, 3)) for axis in (1, 2)]
        if any(n > most for n, most in zip(self.mrope_sections[1:], limit, strict=True)):
            raise ValueError(
                f"mrope sections {self.mrope_sections}: height and width use every third of"
                f" {self.head_dim // 2} frequencies, so at most {limit[0]} and {limit[1]}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads must be a multiple of {self.kv_heads} key-value heads"
            )


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The full model.

    Attributes:
      vision: the vision tower.
      text: the decoder.
      dtype: compute dtype; training keeps float32 parameters.
      remat: rematerialization policy, a name of `ivx.parallel.remat`.
    """

    vision: VisionSpec
    text: TextSpec
    dtype: str
    remat: str = "layer"

    def __post_init__(self) -> None:
        if len(self.vision.taps) > self.text.depth:
            raise ValueError(
                f"{len(self.vision.taps)} DeepStack taps need at least as many decoder layers,"
                f" got {self.text.depth}"
            )


def tiny(attention: str = "m2la", dtype: str = "float32") -> ModelSpec:
    """About 4 M parameters. float32, which is faster than bfloat16 on a CPU."""
    return _tiny(attention, dtype, width=192, heads=6, kv_heads=3, kv_rank=64, mlp=576)


def small(attention: str = "gqa", dtype: str = "float32") -> ModelSpec:
    """About 6 M parameters: `tiny` with a wider decoder, the teacher of a `tiny` student."""
    return _tiny(attention, dtype, width=256, heads=8, kv_heads=4, kv_rank=96, mlp=768)


def twenty_million(attention: str = "gqa", dtype: str = "float32") -> ModelSpec:
    """About 20 M parameters: `tiny` with twice the layers and twice the head width."""
    shape = {"depth": 8, "head_dim": 64, "mrope_sections": (12, 10, 10)}
    sizes = {"width": 384, "heads": 8, "kv_heads": 4, "kv_rank": 192, "mlp": 1280}
    return _tiny(attention, dtype, **shape, **sizes)


def _tiny(attention: str, dtype: str, **decoder: Any) -> ModelSpec:
    usual = {"depth": 4, "head_dim": 32, "mrope_sections": (6, 5, 5)}
    return ModelSpec(
        vision=VisionSpec(depth=4, width=128, heads=4, mlp=384, taps=(0, 1, 2), table_side=8),
        text=TextSpec(attention=attention, vocab=768, rope_theta=1e4, **usual | decoder),
        dtype=dtype,
    )


_SMALL_TOWER = VisionSpec(depth=24, width=1024, heads=16, mlp=4096, taps=(5, 11, 17), table_side=48)
_LARGE_TOWER = VisionSpec(depth=27, width=1152, heads=16, mlp=4304, taps=(8, 16, 24), table_side=48)


def base_2b(attention: str = "m2la", dtype: str = "bfloat16") -> ModelSpec:
    """The sizes of Qwen3-VL-2B."""
    return _qwen3_vl(
        _SMALL_TOWER, attention, dtype, depth=28, width=2048, heads=16, mlp=6144, tied=True
    )


def base_4b(attention: str = "m2la", dtype: str = "bfloat16") -> ModelSpec:
    """The sizes of Qwen3-VL-4B."""
    return _qwen3_vl(
        _SMALL_TOWER, attention, dtype, depth=36, width=2560, heads=32, mlp=9728, tied=True
    )


def base_8b(attention: str = "m2la", dtype: str = "bfloat16") -> ModelSpec:
    """InternVideo3-8B, or with attention="gqa" its source Qwen3-VL-8B."""
    return _qwen3_vl(_LARGE_TOWER, attention, dtype, depth=36, width=4096, heads=32, mlp=12288)


def base_32b(attention: str = "m2la", dtype: str = "bfloat16") -> ModelSpec:
    """The sizes of Qwen3-VL-32B."""
    return _qwen3_vl(_LARGE_TOWER, attention, dtype, depth=64, width=5120, heads=64, mlp=25600)


def _qwen3_vl(vision: VisionSpec, attention: str, dtype: str, **decoder: Any) -> ModelSpec:
    text = TextSpec(
        attention=attention,
        head_dim=128,
        kv_heads=8,
        kv_rank=896,
        vocab=151936,
        rope_theta=5e6,
        mrope_sections=(24, 20, 20),
        **decoder,
    )
    return ModelSpec(vision=vision, text=text, dtype=dtype)


PRESETS = {
    "tiny": tiny,
    "small": small,
    "20m": twenty_million,
    "2b": base_2b,
    "4b": base_4b,
    "8b": base_8b,
    "32b": base_32b,
}
