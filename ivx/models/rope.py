"""Rotary position embeddings: interleaved three-axis tables for text, two-axis tables for vision.

A table is a pair (cos, sin) for half of a head. Rotating the two halves (a, b) of a head yields

    (a cos - b sin, b cos + a sin)

All in float32; the result is cast back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Rope(NamedTuple):
    """cos and sin of the angles, float32 [..., T, width / 2]."""

    cos: Array
    sin: Array


def text_rope(
    positions: Int[Array | np.ndarray, "b 3 t"],
    width: int,
    theta: float,
    sections: tuple[int, int, int],
) -> Rope:
    """Interleaved M-RoPE: frequency j = theta^(-2j / width) rotates with one of three axes.

    j belongs to height if j % 3 == 1 and j < 3 * sections[1], to width if j % 3 == 2 and
    j < 3 * sections[2], and to time otherwise (Qwen3VLTextRotaryEmbedding.apply_interleaved_mrope).

    Frequencies are rounded twice, as in transformers. At positions near 262,144, the last bit of a
    frequency is a hundredth of a radian.

    Args:
      positions: (time, height, width) of each token.
      width: P, width of the rotated part of a head.
      theta: base of the frequencies.
      sections: number of frequencies per axis; they sum to width / 2.
    """
    frequency = np.arange(width // 2)
    axis = np.zeros(width // 2, np.int32)
    for a in (1, 2):
        axis[(frequency % 3 == a) & (frequency < 3 * sections[a])] = a
    inverse = 1 / (theta ** (2 * frequency / width)).astype(np.float32)
    angles = jnp.moveaxis(positions[:, axis].astype(jnp.float32), 1, -1) * inverse
    return Rope(jnp.cos(angles), jnp.sin(angles))


def vision_rope(grid: Int[Array, "b x 4"], head_dim: int) -> Rope:
    """Two axes: a quarter of the head rotates with the row, a quarter with the column, base 10000.

    Args:
      grid: (row, column, rows, columns) of each patch.
      head_dim: width of a vision head.
    """
    quarter = head_dim // 4
    inverse = (1e4 ** (-np.arange(quarter) / quarter)).astype(np.float32)
    row_column = grid[..., :2].astype(jnp.float32)
    angles = (row_column[..., None] * inverse).reshape(*grid.shape[:-1], 2 * quarter)
    return Rope(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "b t n p"], rope: Rope) -> Float[Array, "b t n p"]:
    """Rotates heads whose pairs are (j, j + width / 2)."""
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    cos, sin = rope.cos[:, :, None], rope.sin[:, :, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def rotate_pairs(x: Float[Array, "b t n p"], rope: Rope) -> Float[Array, "b t n p"]:
    """Rotates heads whose pairs are adjacent, (2j, 2j + 1); the result has the order of `rotate`.

    A product with a permutation matrix changes the order, which is exact. With strided slices, the
    TPU compiler turns the gradient into a program so long that it takes many minutes.
    """
    width = x.shape[-1]
    order = np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2)])
    permutation = np.eye(width, dtype=np.float32)[:, order]
    ordered = jnp.matmul(x, jnp.asarray(permutation, x.dtype), precision=jax.lax.Precision.HIGHEST)
    return rotate(ordered, rope)
