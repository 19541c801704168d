"""Our latent attention against one that neither we nor InternVideo3 wrote: that of DeepSeek-V3.

`DeepseekV3Attention` of transformers becomes M2LA by the edits that tell the two apart:

    kv_a_layernorm   the latent is not normalised
    q_proj           has a bias
    o_proj           has none, which `attention_bias` would give it

Without `q_lora_rank` it has no other path to the queries, and its scale is (H + P)^-0.5 by itself.
Tables of cosines and sines are those of Qwen3-VL's rotary embedding in transformers, so that no
code of ivx runs on that side.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ivx.kernels.latent_decode.cache import LatentCache
from ivx.models.latent_attention import LatentAttention
from ivx.models.rope import text_rope
from ivx.models.spec import TextSpec
from tests.conftest import small_spec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", exc_type=ImportError)

# Of outputs of about 3, in float32.
TOLERANCE = 1e-5
# Over a whole context: torch rounds one frequency of 64 otherwise, there 0.016 of a radian.
TOLERANCE_APART = 1e-4

# Width, heads, head, latent and sections of the rotation; the last has the heads of the release.
SIZES = {
    "small": (48, 4, 16, 24, (4, 2, 2)),
    "odd": (40, 3, 32, 21, (6, 5, 5)),
    "published": (128, 2, 128, 896, (24, 20, 20)),
}
# Text, a slice of 3 x 4 tokens and text; tokens a whole context apart.
_SLICE = np.stack([np.zeros(12), np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)])
_TEXT = np.broadcast_to(np.arange(24), (3, 24))
POSITIONS = {
    "text": _TEXT,
    "video": np.concatenate([_TEXT[:, :5], 5 + _SLICE, 9 + _TEXT[:, :7]], 1).astype(np.int64),
    "apart": np.concatenate([_TEXT[:, :12], 262000 + _TEXT[:, :12]], 1),
}


@pytest.fixture(params=SIZES)
def spec(request) -> TextSpec:
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
def positions(request) -> np.ndarray:
    """int [3, T]."""
    return POSITIONS[request.param]


@pytest.fixture
def weights(spec) -> dict:
    """Of our attention; every bias is as large as what it is added to."""
    shapes = nnx.eval_shape(lambda: LatentAttention(spec, jnp.float32, nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def draw(array) -> np.ndarray:
        size = array.shape[0] ** -0.5 if array.ndim == 2 else 1.0
        return np.float32(size) * rng.standard_normal(array.shape, np.float32)

    return jax.tree.map(draw, nnx.to_pure_dict(nnx.state(shapes)))


@pytest.fixture
def x_btd(spec, positions) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((1, positions.shape[1], spec.width), np.float32)


def ours(spec: TextSpec, weights: dict) -> LatentAttention:
    graph, state = nnx.split(LatentAttention(spec, jnp.float32, nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)


def rope_of(spec: TextSpec, positions: np.ndarray):
    return text_rope(positions[None], spec.head_dim, spec.rope_theta, spec.mrope_sections)


def oracle(spec: TextSpec, weights: dict):
    """DeepSeek's attention with the edits, holding our weights."""
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
    """Our weights under the names and in the order of torch."""
    names = {"kv_a_proj": "kv_a_proj_with_mqa"}
    return {
        f"{names.get(name, name)}.{'weight' if kind == 'kernel' else kind}": torch.tensor(
            np.asarray(array).T.copy()
        )
        for name, arrays in weights.items()
        for kind, array in arrays.items()
    }


def tables(spec: TextSpec, positions: np.ndarray):
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


def their_output(attention, spec: TextSpec, positions: np.ndarray, x_btd: np.ndarray) -> np.ndarray:
    length = x_btd.shape[1]
    later = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        out = attention(torch.tensor(x_btd), tables(spec, positions), later)[0]
    return out.numpy()


def close(found: np.ndarray, expected: np.ndarray, positions: np.ndarray | None = None) -> None:
    difference = np.abs(np.asarray(found) - expected).max()
    print(f"outputs up to {np.abs(expected).max():.2f} differ by {difference:.1e}")
    apart = positions is not None and np.ptp(positions) > 1000
    assert difference < (TOLERANCE_APART if apart else TOLERANCE)
    assert np.abs(expected).max() > 1.0, "outputs that say nothing agree too easily"


def test_a_whole_sequence(spec, positions, weights, x_btd):
    """Training and prefill, which make keys and values from the latent."""
    segments = np.ones(x_btd.shape[:2], np.int32)
    found, _ = ours(spec, weights)(x_btd, rope_of(spec, positions), segments)
    close(found, their_output(oracle(spec, weights), spec, positions, x_btd), positions)


def test_token_by_token_from_the_latent(spec, positions, weights, x_btd):
    """Absorbed decoding, which makes none, gives each row of the oracle's whole sequence."""
    attention, length = ours(spec, weights), x_btd.shape[1]
    cache = LatentCache(jnp.zeros((1, length, spec.kv_rank + spec.head_dim)))
    step, rows = nnx.jit(type(attention).decode), []
    for number in range(length):
        here = slice(number, number + 1)
        rope = rope_of(spec, positions[:, here])
        row, cache = step(attention, x_btd[:, here], rope, cache, jnp.array([number]))
        rows.append(row)
    found = np.concatenate(rows, 1)
    close(found, their_output(oracle(spec, weights), spec, positions, x_btd), positions)


def test_the_attention_of_an_export(spec, positions, weights, x_btd):
    """The remote code agrees too, at once and with its last token answered from the latent."""
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
    close(their_output(attention, spec, positions, x_btd), expected)

    cache, x = transformers.DynamicCache(), torch.tensor(x_btd)
    cos, sin = tables(spec, positions)
    later = torch.full((x.shape[1] - 1,) * 2, torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        attention(x[:, :-1], (cos[:, :-1], sin[:, :-1]), later, past_key_values=cache)
        last = attention(x[:, -1:], (cos[:, -1:], sin[:, -1:]), None, past_key_values=cache)[0]
    close(last.numpy(), expected[:, -1:])


@pytest.mark.parametrize("spec", ["small"], indirect=True)
@pytest.mark.parametrize("positions", ["video"], indirect=True)
@pytest.mark.parametrize("undone", ["norm", "bias", "scale", "pairs", "axes"])
def test_each_of_what_makes_it_m2la_matters(spec, positions, weights, x_btd, undone):
    """The tests above can fail: an oracle without one of them gives other numbers."""
    attention = oracle(spec, weights)
    if undone == "norm":
        attention.kv_a_layernorm = torch.nn.RMSNorm(spec.kv_rank)
    elif undone == "bias":
        attention.q_proj.bias.data.zero_()
    elif undone == "scale":
        attention.scaling = spec.head_dim**-0.5
    elif undone == "pairs":
        attention.config.rope_interleave = False
    else:
        positions = np.broadcast_to(positions[:1], positions.shape)
    plain = their_output(oracle(spec, weights), spec, POSITIONS["video"], x_btd)
    assert np.abs(their_output(attention, spec, positions, x_btd) - plain).max() > 1e-2
