"""The table between Hugging Face tensor names and ivx parameter paths, one row per kind of weight.

ivx stacks layers: layer i of a row is at index i of the leading axis. Otherwise only the form of a
weight differs:

    PLAIN    identical
    LINEAR   torch stores [out, in], ivx [in, out]
    BY_HEAD  as LINEAR, for each head
    CONV     Conv3d over an entire patch; in ivx a matrix that multiplies a row of 1536 pixels

The order within an axis is the same, so no weight is permuted:

    pixels of a row       (channel, frame, y, x), in `data_pipelines.video.patches` as in Conv3d
    rows of a slice       merge window by merge window
    heads of q_proj       [without rope | with rope] for M2LA
    columns of kv_a_proj  [latent | rope]
    heads of kv_b_proj    [key | value]
    rope pairs            adjacent, (2j, 2j + 1), for M2LA; half a head apart for GQA and vision
"""

import dataclasses
from typing import Any

import einops
import numpy as np

from ivx.models.definition import ModelDefinition, Params


@dataclasses.dataclass(frozen=True)
class Form:
    """Layouts of a weight in a folder (`theirs`) and in ivx (`ours`), as einops patterns."""

    theirs: str
    ours: str
    sizes: tuple[tuple[str, int], ...] = ()

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """The array in the form of the folder; a writable view if the array is contiguous."""
        return einops.rearrange(array, f"{self.ours} -> {self.theirs}", **dict(self.sizes))


PLAIN = Form("...", "...")
LINEAR = Form("o i", "i o")
BY_HEAD = Form("n o i", "n i o")
CONV = Form("o c f y x", "(c f y x) o", (("c", 3), ("f", 2), ("y", 16), ("x", 16)))

# If the two are tied, a folder holds only the first.
EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

_EMBEDDING = (
    (EMBEDDING, "embed_tokens.embedding", PLAIN),
    ("model.language_model.norm.weight", "language_model.norm.scale", PLAIN),
)
_HEAD = ((HEAD, "lm_head.kernel", LINEAR),)
_LAYER = (
    ("input_layernorm.weight", "input_layernorm.scale", PLAIN),
    ("post_attention_layernorm.weight", "post_attention_layernorm.scale", PLAIN),
    ("mlp.gate_proj.weight", "mlp.gate_proj.kernel", LINEAR),
    ("mlp.up_proj.weight", "mlp.up_proj.kernel", LINEAR),
    ("mlp.down_proj.weight", "mlp.down_proj.kernel", LINEAR),
)
_ATTENTION = {
    "m2la": (
        ("self_attn.q_proj.weight", "self_attn.q_proj.kernel", LINEAR),
        ("self_attn.q_proj.bias", "self_attn.q_proj.bias", PLAIN),
        ("self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_proj.kernel", LINEAR),
        ("self_attn.kv_a_proj_with_mqa.bias", "self_attn.kv_a_proj.bias", PLAIN),
        ("self_attn.kv_b_proj.weight", "self_attn.kv_b_proj.kernel", LINEAR),
        ("self_attn.o_proj.weight", "self_attn.o_proj.kernel", LINEAR),
    ),
    "m2la_exact": (
        ("self_attn.q_proj.weight", "self_attn.q_proj.kernel", LINEAR),
        ("self_attn.k_proj.weight", "self_attn.k_proj.kernel", LINEAR),
        ("self_attn.v_proj.weight", "self_attn.v_proj.kernel", LINEAR),
        ("self_attn.q_norm.weight", "self_attn.q_norm.scale", PLAIN),
        ("self_attn.k_norm.weight", "self_attn.k_norm.scale", PLAIN),
        ("self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_proj.kernel", LINEAR),
        ("self_attn.kv_b_proj.weight", "self_attn.kv_b_proj.kernel", LINEAR),
        ("self_attn.q_rope_proj.weight", "self_attn.q_rope_proj.kernel", BY_HEAD),
        ("self_attn.o_proj.weight", "self_attn.o_proj.kernel", LINEAR),
    ),
    "gqa": (
        ("self_attn.q_proj.weight", "self_attn.q_proj.kernel", LINEAR),
        ("self_attn.k_proj.weight", "self_attn.k_proj.kernel", LINEAR),
        ("self_attn.v_proj.weight", "self_attn.v_proj.kernel", LINEAR),
        ("self_attn.o_proj.weight", "self_attn.o_proj.kernel", LINEAR),
        ("self_attn.q_norm.weight", "self_attn.q_norm.scale", PLAIN),
        ("self_attn.k_norm.weight", "self_attn.k_norm.scale", PLAIN),
    ),
}
_TOWER = (
    ("patch_embed.proj.weight", "patch_embed.kernel", CONV),
    ("patch_embed.proj.bias", "patch_embed.bias", PLAIN),
    ("pos_embed.weight", "pos_embed.embedding", PLAIN),
)
_VISION_BLOCK = (
    ("norm1.weight", "norm1.scale", PLAIN),
    ("norm1.bias", "norm1.bias", PLAIN),
    ("attn.qkv.weight", "qkv.kernel", LINEAR),
    ("attn.qkv.bias", "qkv.bias", PLAIN),
    ("attn.proj.weight", "proj.kernel", LINEAR),
    ("attn.proj.bias", "proj.bias", PLAIN),
    ("norm2.weight", "norm2.scale", PLAIN),
    ("norm2.bias", "norm2.bias", PLAIN),
    ("mlp.linear_fc1.weight", "linear_fc1.kernel", LINEAR),
    ("mlp.linear_fc1.bias", "linear_fc1.bias", PLAIN),
    ("mlp.linear_fc2.weight", "linear_fc2.kernel", LINEAR),
    ("mlp.linear_fc2.bias", "linear_fc2.bias", PLAIN),
)
_MERGER = (
    ("norm.weight", "norm.scale", PLAIN),
    ("norm.bias", "norm.bias", PLAIN),
    ("linear_fc1.weight", "linear_fc1.kernel", LINEAR),
    ("linear_fc1.bias", "linear_fc1.bias", PLAIN),
    ("linear_fc2.weight", "linear_fc2.kernel", LINEAR),
    ("linear_fc2.bias", "linear_fc2.bias", PLAIN),
)


@dataclasses.dataclass(frozen=True)
class Weight:
    """One tensor of a folder and its position in the ivx tree.

    Attributes:
      name: in the folder.
      path: keys into the parameter tree.
      layer: index on the leading axis of that parameter; None if it is not stacked.
      form: the two layouts.
      shape: in the folder.
    """

    name: str
    path: tuple[str, ...]
    layer: int | None
    form: Form
    shape: tuple[int, ...]


def table(attention: str, tied: bool) -> list[tuple[str, str, Form]]:
    """The rows of one attention: (name with {i} for the layer, dotted path, form)."""
    sections = (
        ("", "", _EMBEDDING),
        ("", "", () if tied else _HEAD),
        ("model.language_model.layers.{i}.", "language_model.layers.", _LAYER),
        ("model.language_model.layers.{i}.", "language_model.layers.", _ATTENTION[attention]),
        ("model.visual.", "visual.", _TOWER),
        ("model.visual.blocks.{i}.", "visual.blocks.", _VISION_BLOCK),
        ("model.visual.merger.", "visual.merger.", _MERGER),
        ("model.visual.deepstack_merger_list.{i}.", "visual.deepstack_mergers.", _MERGER),
    )
    return [
        (theirs + name, ours + path, form)
        for theirs, ours, rows in sections
        for name, path, form in rows
    ]


def weights(definition: ModelDefinition) -> list[Weight]:
    """Every tensor of a folder of this model, in the order of the table."""
    abstract, weights = definition.abstract_params, []
    text = definition.spec.text
    for name, dotted, form in table(text.attention, text.tied):
        path = tuple(dotted.split("."))
        shape = leaf(abstract, path).shape
        stacked = "{i}" in name
        # A broadcast scalar has any shape and takes no memory.
        ours = np.broadcast_to(np.int8(0), shape[1:] if stacked else shape)
        theirs = form.to_theirs(ours).shape
        for layer in range(shape[0]) if stacked else (None,):
            weights.append(Weight(name.format(i=layer), path, layer, form, theirs))
    return weights


def leaf(tree: Params, path: tuple[str, ...]) -> Any:
    """The leaf at `path` of a nested dict."""
    for key in path:
        tree = tree[key]
    return tree
