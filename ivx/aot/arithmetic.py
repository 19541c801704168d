"""Memory and time of a training step by arithmetic: to try the likely meshes first, no more.

The compiler has the last word on whether a step fits; this only orders what it is asked, and leaves
out what cannot fit. Of a device, in bytes:

    state      12 a parameter: float32 master and two moments
    gradients  4 a parameter, 8 where micro-batches are summed
    kept       what the remat policy keeps of every layer, and of every block of the tower
    working    the largest of what is alive in one layer: features, keys and values of a group of
               heads, and their gradients, weights gathered for it
"""

import dataclasses
import itertools
from collections.abc import Iterator

from ivx.aot.chips import Chip
from ivx.aot.estimate import BACKWARD, kernel_share
from ivx.kernels.latent_attention import GROUP
from ivx.models.spec import ModelSpec

# Policies that are worth a try: the others keep several times as much.
POLICIES = ("attention", "latent", "layer", "offload")
# Share of the peak at which XLA's own products are taken to run.
_PRODUCTS = 0.85


@dataclasses.dataclass(frozen=True)
class Setting:
    """What may be chosen: mesh, micro-batches and what is kept of layers."""

    fsdp: int
    tensor: int
    context: int
    accumulation: int
    remat: str

    @property
    def mesh(self) -> dict[str, int]:
        return {"fsdp": self.fsdp, "tensor": self.tensor, "context": self.context}

    @property
    def devices(self) -> int:
        return self.fsdp * self.tensor * self.context


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step has to do.

    Attributes:
      spec: sizes of the model.
      parameters: how many.
      packs: of a global batch.
      tokens: of a pack.
      patches: of a pack.
      flops: useful ones of a step, by part, over all devices.
    """

    spec: ModelSpec
    parameters: int
    packs: int
    tokens: int
    patches: int
    flops: dict[str, float]


def settings(work: Work, devices: int) -> Iterator[Setting]:
    """All that divide evenly: axes by powers of two, at most four packs a device at a time."""
    text = work.spec.text
    powers = [2**n for n in range(devices.bit_length()) if devices % 2**n == 0]
    for fsdp, tensor in itertools.product(powers, powers):
        context, rest = divmod(devices, fsdp * tensor)
        micro, uneven = divmod(work.packs, fsdp)
        if rest or uneven or text.width % (fsdp * context) or work.spec.vision.width % fsdp:
            continue
        # The vocabulary of Qwen divides by 32, heads stay whole.
        if text.heads % tensor or text.vocab % tensor or work.tokens % (2 * context):
            continue
        for packs, remat in itertools.product((1, 2, 4), POLICIES):
            if micro % packs == 0:
                yield Setting(fsdp, tensor, context, micro // packs, remat)


def memory(work: Work, setting: Setting) -> dict[str, float]:
    """Bytes on a device, by what they are for."""
    text, vision = work.spec.text, work.spec.vision
    wide = text.heads * text.head_dim // setting.tensor
    packs = work.packs / (setting.fsdp * setting.accumulation)
    tokens = packs * work.tokens / setting.context
    patches = packs * work.patches / (setting.context * setting.tensor)
    held = work.parameters / setting.devices
    residual = 0 if setting.remat == "offload" else 2 * text.width
    more = {"latent": 2 * (text.kv_rank + text.head_dim)}
    more["attention"] = more["latent"] + 2 * wide + 4 * text.heads // setting.tensor
    seen = 0 if setting.remat == "offload" else 2 * vision.width
    kept = tokens * text.depth * (residual + more.get(setting.remat, 0))
    kept += patches * (vision.depth * seen + 2 * len(vision.taps) * vision.width)
    layer = 4 * text.width * wide + 3 * text.width * text.mlp // setting.tensor
    features = 2 * tokens * (4 * text.width + 4 * text.mlp // setting.tensor)
    heads = min(GROUP, text.heads // setting.tensor)
    # Keys twice as wide as values, and the gradients of both.
    group = 2 * 2 * packs * work.tokens * heads * 3 * text.head_dim
    queries = 2 * 2 * tokens * 3 * wide
    return {
        "state": 12 * held,
        "gradients": (8 if setting.accumulation > 1 else 4) * held,
        "kept": kept,
        "working": 2 * 2 * layer + max(features, group + queries),
    }


def seconds(work: Work, setting: Setting, chip: Chip) -> float:
    """Of a step whose exchanges do not hide: products, attention, exchanges."""
    peak = setting.devices * chip.peak
    attention = ("attention", "vision attention")
    products = sum(flops for part, flops in work.flops.items() if part not in attention)
    # A useful pass forward and twice that back; what was not kept is made again.
    time = products * 4 / 3 / (peak * _PRODUCTS)
    forward, backward = (
        kernel_share(chip, name) for name in ("dense_attention", "dense_attention_d_keys")
    )
    passes = 1 if setting.remat == "attention" else 2
    done = passes / forward + BACKWARD["attention"] / backward
    time += work.flops["attention"] / 3 * done / peak
    time += work.flops["vision attention"] * 2 / (peak * kernel_share(chip, "vision_attention"))
    # Weights come twice in bfloat16, and their gradient goes once in float32.
    share = 1 - 1 / (setting.fsdp * setting.context)
    sent = setting.accumulation * work.parameters / setting.tensor * (2 + 2 + 4) * share
    text = work.spec.text
    tokens = work.packs * work.tokens / (setting.fsdp * setting.context)
    # Over `tensor`, what attention and feed-forward give is summed: forward, again, and back.
    sent += text.depth * 6 * 2 * 2 * tokens * text.width * (1 - 1 / setting.tensor)
    return time + sent / (2 * chip.link)


def likely(work: Work, chip: Chip, devices: int, share: float) -> list[Setting]:
    """Settings that may fit into this share of the memory, the fastest first."""
    room = share * chip.memory
    fitting = [one for one in settings(work, devices) if sum(memory(work, one).values()) <= room]
    return sorted(fitting, key=lambda one: (seconds(work, one, chip), one.context, one.tensor))
