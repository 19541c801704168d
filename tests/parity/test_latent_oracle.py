"""Compares latent attention with an independent implementation: that of DeepSeek-V3.

`DeepseekV3Attention` of transformers becomes M2LA after these changes:

    kv_a_layernorm   removed: the latent is not normalised
    q_proj           gets a bias
    o_proj           loses the bias that `attention_bias` adds

Without `q_lora_rank` it has one query projection, and its scale is already (H + P)^-0.5. The
rotation tables are those of Qwen3-VL in transformers, so the oracle runs no code of ivx.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ivx.kernels.latent_decode.cache import LatentCache
from ivx.models.latent_attention import LatentAttention
from ivx.models.rope import Rope, text_rope
from ivx.models.spec import TextSpec
from tests.conftest import small_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", exc_type=ImportError)

# For outputs of about 3, in float32.
TOLERANCE = 1e-5
# Over a full context: torch rounds one of 64 frequencies differently, which adds 0.016 radian.
TOLERANCE_APART = 1e-4

# Width, heads, head width, rank, rope sections; the last has the head geometry of the release.
SIZES = {
    "small": (48, 4, 16, 24, (4, 2, 2)),
    "odd": (40, 3, 32, 21, (6, 5, 5)),
    "published": (128, 2, 128, 896, (24, 20, 20)),
}
# Text; text, a slice of 3 x 4 tokens and text; tokens a full context apart.
_SLICE = np.stack([np.zeros(12), np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)])
_TEXT = np.broadcast_to(np.arange(24), (3, 24))
POSITIONS = {
    "text": _TEXT,
    "video": np.concatenate([_TEXT[:, :5], 5 + _SLICE, 9 + _TEXT[:, :7]], 1).astype(np.int64),
    "apart": np.concatenate([_TEXT[:, :12], 262000 + _TEXT[:, :12]], 1),
}


@pytest.fixture(params=SIZES)
def spec(request: pytest.FixtureRequest) -> TextSpec:
    width, heads, head, rank, sections = SIZES[request.param]
    return dataclasses.replace(
        small_spec("m2la").text,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=head,
        kv_rank=rank,
        rope_theta=5e6,
        mrope_sections=sections,
    )


@pytest.fixture(params=POSITIONS)
def positions(request: pytest.FixtureRequest) -> np.ndarray:
    """int [3, T]."""
    return POSITIONS[request.param]


@pytest.fixture
def weights(spec: TextSpec) -> dict:
    """Weights of the ivx attention; biases have the scale of the values they are added to."""
    shapes = nnx.eval_shape(lambda: LatentAttention(spec, jnp.float32, nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def draw(array: jax.ShapeDtypeStruct) -> np.ndarray:
        size = array.shape[0] ** -0.5 if array.ndim == 2 else 1.0
        return np.float32(size) * rng.standard_normal(array.shape, np.float32)

    return jax.tree.map(draw, nnx.to_pure_dict(nnx.state(shapes)))


@pytest.fixture
def x_btd(spec: TextSpec, positions: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((1, positions.shape[1], spec.width), np.float32)


def our_attention(spec: TextSpec, weights: dict) -> LatentAttention:
    graph, state = nnx.split(LatentAttention(spec, jnp.float32, nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, weights))
    return nnx.merge(graph, state)


def rope_of(spec: TextSpec, positions: np.ndarray) -> Rope:
    return text_rope(positions[None], spec.head_dim, spec.rope_theta, spec.mrope_sections)


def oracle(spec: TextSpec, weights: dict) -> Any:
    """The modified DeepSeek attention with the given weights."""
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    config = transformers.DeepseekV3Config(
        hidden_size=spec.width,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        kv_lora_rank=spec.kv_rank,
        q_lora_rank=None,
        qk_nope_head_dim=spec.head_dim,
        qk_rope_head_dim=spec.head_dim,
        v_head_dim=spec.head_dim,
        attention_bias=True,
        rope_interleave=True,
    )
    config._attn_implementation = "eager"
    attention = deepseek.DeepseekV3Attention(config, 0)
    queries, out = attention.q_proj, attention.o_proj
    attention.kv_a_layernorm = torch.nn.Identity()
    attention.q_proj = torch.nn.Linear(queries.in_features, queries.out_features, bias=True)
    attention.o_proj = torch.nn.Linear(out.in_features, out.out_features, bias=False)
    attention.load_state_dict(as_theirs(weights))
    return attention.eval()


def as_theirs(weights: dict) -> dict:
    """The weights with the names and layouts of torch."""
    names = {"kv_a_proj": "kv_a_proj_with_mqa"}
    return {
        f"{names.get(name, name)}.{'weight' if kind == 'kernel' else kind}": torch.tensor(
            np.asarray(array).T.copy()
        )
        for name, arrays in weights.items()
        for kind, array in arrays.items()
    }


def tables(spec: TextSpec, positions: np.ndarray) -> tuple[Any, Any]:
    """(cos, sin) of Qwen3-VL."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen

    rope = {
        "rope_type": "default",
        "rope_theta": spec.rope_theta,
        "mrope_section": list(spec.mrope_sections),
        "mrope_interleaved": True,
    }
    config = transformers.models.qwen3_vl.configuration_qwen3_vl.Qwen3VLTextConfig(
        hidden_size=spec.width,
        num_attention_heads=spec.heads,
        head_dim=spec.head_dim,
        rope_theta=spec.rope_theta,
        rope_scaling=rope,
    )
    embedding = qwen.Qwen3VLTextRotaryEmbedding(config)
    return embedding(torch.zeros(1), torch.tensor(positions)[:, None])


def their_output(
    attention: Any, spec: TextSpec, positions: np.ndarray, x_btd: np.ndarray
) -> np.ndarray:
    length = x_btd.shape[1]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        out = attention(torch.tensor(x_btd), tables(spec, positions), mask)[0]
    return out.numpy()


def assert_close(
    output: np.ndarray | jax.Array, expected: np.ndarray, positions: np.ndarray | None = None
) -> None:
    difference = np.abs(np.asarray(output) - expected).max()
    print(f"outputs up to {np.abs(expected).max():.2f} differ by {difference:.1e}")
    apart = positions is not None and np.ptp(positions) > 1000
    assert difference < (TOLERANCE_APART if apart else TOLERANCE)
    assert np.abs(expected).max() > 1.0, "outputs near zero agree trivially"


def test_sequence_matches_the_oracle(
    spec: TextSpec, positions: np.ndarray, weights: dict, x_btd: np.ndarray
):
    """Training and prefill, which compute keys and values from the latent."""
    segments = jnp.ones(x_btd.shape[:2], jnp.int32)
    output, _ = our_attention(spec, weights)(jnp.asarray(x_btd), rope_of(spec, positions), segments)
    assert_close(output, their_output(oracle(spec, weights), spec, positions, x_btd), positions)


def test_decoding_from_the_latent_matches_the_oracle(
    spec: TextSpec, positions: np.ndarray, weights: dict, x_btd: np.ndarray
):
    """Absorbed decoding, without keys and values, gives every row of the oracle's sequence."""
    attention, length = our_attention(spec, weights), x_btd.shape[1]
    cache = LatentCache(jnp.zeros((1, length, spec.kv_rank + spec.head_dim)))
    step, rows = nnx.jit(type(attention).decode), []
    for index in range(length):
        token = slice(index, index + 1)
        rope = rope_of(spec, positions[:, token])
        row, cache = step(attention, x_btd[:, token], rope, cache, jnp.array([index]))
        rows.append(row)
    output = np.concatenate(rows, 1)
    assert_close(output, their_output(oracle(spec, weights), spec, positions, x_btd), positions)


def test_remote_code_matches_the_oracle(
    spec: TextSpec, positions: np.ndarray, weights: dict, x_btd: np.ndarray
):
    """For a sequence, and for its last token decoded from the latent."""
    from ivx.hf.remote_code import modeling_internvideo3 as remote

    config = transformers.DeepseekV3Config(
        hidden_size=spec.width,
        num_attention_heads=spec.heads,
        kv_lora_rank=spec.kv_rank,
        qk_nope_head_dim=spec.head_dim,
        qk_rope_head_dim=spec.head_dim,
        v_head_dim=spec.head_dim,
    )
    config._attn_implementation = "eager"
    attention = remote.M2LA(config, 0).eval()
    attention.load_state_dict(as_theirs(weights))
    expected = their_output(oracle(spec, weights), spec, positions, x_btd)
    assert_close(their_output(attention, spec, positions, x_btd), expected)

    cache, x = transformers.DynamicCache(), torch.tensor(x_btd)
    cos, sin = tables(spec, positions)
    mask = torch.full((x.shape[1] - 1,) * 2, torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        attention(x[:, :-1], (cos[:, :-1], sin[:, :-1]), mask, past_key_values=cache)
        last = attention(x[:, -1:], (cos[:, -1:], sin[:, -1:]), None, past_key_values=cache)[0]
    assert_close(last.numpy(), expected[:, -1:])


@pytest.mark.parametrize("spec", ["small"], indirect=True)
@pytest.mark.parametrize("positions", ["video"], indirect=True)
@pytest.mark.parametrize("removed", ["norm", "bias", "scale", "pairs", "axes"])
def test_oracle_depends_on_every_change(
    spec: TextSpec, positions: np.ndarray, weights: dict, x_btd: np.ndarray, removed: str
):
    """The tests above can fail: without any one of the changes the output differs."""
    attention = oracle(spec, weights)
    if removed == "norm":
        attention.kv_a_layernorm = torch.nn.RMSNorm(spec.kv_rank)
    elif removed == "bias":
        attention.q_proj.bias.data.zero_()
    elif removed == "scale":
        attention.scaling = spec.head_dim**-0.5
    elif removed == "pairs":
        attention.config.rope_interleave = False
    else:
        positions = np.broadcast_to(positions[:1], positions.shape)
    plain = their_output(oracle(spec, weights), spec, POSITIONS["video"], x_btd)
    assert np.abs(their_output(attention, spec, positions, x_btd) - plain).max() > 1e-2
