"""Estimates memory and time of a step by arithmetic, to choose which settings to compile first.

The compiler decides whether a step fits. This module only orders the candidates and drops those
that cannot fit. Bytes per device:

    state      12 per parameter: float32 master and two moments
    gradients  4 per parameter, 8 if micro-batches are accumulated
    teacher    4 per teacher parameter, float32; no activations are kept
    sums       of a statistics pass, whose only state is its parameters: replicated on every device
    kept       what the remat policy keeps of every layer, and of every block of the tower
    working    the largest working set of one layer: features, keys and values of a group of heads,
               their gradients, and the weights gathered for the layer
"""

import dataclasses
import itertools
from collections.abc import Iterator

from ivx.aot import estimate
from ivx.aot.chips import Chip
from ivx.kernels.latent_attention import ALIVE, heads_at_a_time
from ivx.models import flop_counts as flops
from ivx.models.spec import ModelSpec, TextSpec

# Policies worth a try; the others keep several times as much.
POLICIES = ("all_attention", "attention", "latent", "layer", "offload")
# Assumed share of the peak of XLA's matrix products.
_PRODUCTS = 0.85


@dataclasses.dataclass(frozen=True)
class Setting:
    """A choice of mesh, micro-batches and remat policy."""

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
    """The work of a step.

    Attributes:
      spec: the model.
      parameters: its parameter count.
      packs: packs of a global batch.
      tokens: tokens of a pack.
      patches: patches of a pack.
      flops: useful FLOPs of a step by part, over all devices.
      trains: False for a statistics pass, which has no backward pass.
      teacher: a second model that only runs forward, or None.
      teacher_parameters: its parameter count.
    """

    spec: ModelSpec
    parameters: int
    packs: int
    tokens: int
    patches: int
    flops: dict[str, float]
    trains: bool = True
    teacher: ModelSpec | None = None
    teacher_parameters: int = 0

    @property
    def models(self) -> list[ModelSpec]:
        return [self.spec, *([self.teacher] if self.teacher else [])]


def settings(work: Work, devices: int) -> Iterator[Setting]:
    """All settings that divide evenly, with axes of powers of two and up to four packs at a time.

    A statistics pass keeps packs unsplit, takes the batch at once, and has no remat policy.
    """
    powers = [2**n for n in range(devices.bit_length()) if devices % 2**n == 0]
    for fsdp, tensor in itertools.product(powers, powers):
        context, rest = divmod(devices, fsdp * tensor)
        local_packs, uneven = divmod(work.packs, fsdp)
        if rest or uneven or work.tokens % (2 * context):
            continue
        if not all(_divides(model, fsdp, tensor, context) for model in work.models):
            continue
        if not work.trains:
            if context == 1:
                yield Setting(fsdp, tensor, context, 1, "none")
            continue
        for packs, remat in itertools.product((1, 2, 4), POLICIES):
            if local_packs % packs == 0:
                yield Setting(fsdp, tensor, context, local_packs // packs, remat)


def _divides(model: ModelSpec, fsdp: int, tensor: int, context: int) -> bool:
    uneven = model.text.width % (fsdp * context) or model.vision.width % fsdp
    return not uneven and splits(model.text, tensor)


def splits(text: TextSpec, tensor: int) -> bool:
    """Whether layers split evenly over `tensor` devices; key heads may be replicated."""
    return not any(size % tensor for size in (text.heads, text.mlp, text.vocab))


def memory(work: Work, setting: Setting) -> dict[str, float]:
    """Bytes per device by purpose; purposes that do not apply are left out."""
    local_parameters = work.parameters / setting.devices
    working = max(
        _working(model, work, setting, backward=work.trains and model is work.spec)
        for model in work.models
    )
    sizes = {"kept": _kept(work, setting), "working": working}
    if not work.trains:
        sums = 4 * flops.statistics(work.spec)
        return sizes | {"state": 4 * local_parameters, "sums": sums}
    if work.teacher:
        sizes["teacher"] = 4 * work.teacher_parameters / setting.devices
    gradients = (8 if setting.accumulation > 1 else 4) * local_parameters
    return sizes | {"state": 12 * local_parameters, "gradients": gradients}


def activations(work: Work, setting: Setting) -> float:
    """Bytes of a device that a pass holds besides the state, in two bytes a number."""
    sizes = memory(work, setting)
    return sizes["kept"] + sizes["working"]


def _local_packs_and_tokens(work: Work, setting: Setting) -> tuple[float, float]:
    """Packs at a time, and their tokens on one device."""
    packs = work.packs / (setting.fsdp * setting.accumulation)
    return packs, packs * work.tokens / setting.context


def _kept(work: Work, setting: Setting) -> float:
    """Bytes kept for a backward pass, and the DeepStack features that the decoder reads."""
    text, vision = work.spec.text, work.spec.vision
    packs, tokens = _local_packs_and_tokens(work, setting)
    patches = packs * work.patches / (setting.context * setting.tensor)
    taps = 2 * patches * len(vision.taps) * vision.width
    # Their features at every token, and the gradients of these.
    taps += (4 if work.trains else 2) * tokens * len(vision.taps) * text.width
    if not work.trains:
        return taps
    residual = 0 if setting.remat == "offload" else 2 * text.width
    head_width = text.heads * text.head_dim // setting.tensor
    # Grouped attention has no latent to keep.
    latent = 0 if text.attention == "gqa" else 2 * (text.kv_rank + text.head_dim)
    attention = latent + 2 * head_width + 4 * text.heads // setting.tensor
    by_policy = {"latent": latent, "attention": attention, "all_attention": attention}
    block = 0 if setting.remat == "offload" else 2 * vision.width
    if setting.remat == "all_attention":
        block += 2 * vision.width + 4 * vision.heads
    kept = tokens * text.depth * (residual + by_policy.get(setting.remat, 0))
    return kept + patches * vision.depth * block + taps


def _working(model: ModelSpec, work: Work, setting: Setting, backward: bool) -> float:
    """The working set of one layer of a model, forward, and backward if it has such a pass."""
    text, passes = model.text, 2 if backward else 1
    packs, tokens = _local_packs_and_tokens(work, setting)
    head_width = text.heads * text.head_dim // setting.tensor
    if text.attention == "gqa":
        kv_width = text.kv_heads * text.head_dim
        layer = text.width * (2 * head_width + 2 * kv_width // setting.tensor)
        keys, queries = 2 * kv_width, 2 * head_width
    else:
        layer = 4 * text.width * head_width
        # Keys are twice as wide as values.
        limit = int(ALIVE / (packs * work.tokens))
        group = heads_at_a_time(text.heads // setting.tensor, limit)
        keys, queries = 3 * group * text.head_dim, 3 * head_width
    layer += 3 * text.width * text.mlp // setting.tensor
    features = passes * tokens * (4 * text.width + 4 * text.mlp // setting.tensor)
    attention = 2 * passes * (packs * work.tokens * keys + tokens * queries)
    return 2 * passes * layer + max(features, attention)


def seconds(work: Work, setting: Setting, chip: Chip) -> float:
    """Time of a step whose exchanges are all exposed: products, attention, exchanges."""
    student = {part: n for part, n in work.flops.items() if not part.startswith("teacher's ")}
    time = _compute_seconds(student, work.spec, setting, chip, work.trains)
    if work.teacher:
        teacher = {
            part.removeprefix("teacher's "): n
            for part, n in work.flops.items()
            if part not in student
        }
        time += _compute_seconds(teacher, work.teacher, setting, chip, backward=False)
    # Weights are gathered in bfloat16, twice with remat; gradients are reduced in float32.
    share = 1 - 1 / (setting.fsdp * setting.context)
    size = (2 + 2 + 4) * work.parameters if work.trains else 2 * work.parameters
    size += 2 * work.teacher_parameters
    sent = setting.accumulation * size / setting.tensor * share
    if not work.trains:
        sent += 2 * 4 * flops.statistics(work.spec) * (1 - 1 / setting.fsdp)
    tokens = work.packs * work.tokens / (setting.fsdp * setting.context)
    # `tensor` sums the outputs of attention and feed-forward: forward, recomputed, and backward.
    for model in work.models:
        times = 6 if work.trains and model is work.spec else 2
        size = model.text.depth * times * 2 * 2 * tokens * model.text.width
        sent += size * (1 - 1 / setting.tensor)
    return time + sent / (2 * chip.link)


def _compute_seconds(
    flops: dict[str, float], model: ModelSpec, setting: Setting, chip: Chip, backward: bool
) -> float:
    """Seconds of products and attention of one model: a forward pass, or a training step."""
    peak = setting.devices * chip.peak
    heads = "grouped" if model.text.attention == "gqa" else "latent"
    attention, vision = flops["attention"], flops["vision attention"]
    products = sum(flops.values()) - attention - vision
    vision_rate = peak * estimate.kernel_share(chip, "vision_attention")
    forward_rate, backward_rate = (
        peak * estimate.kernel_share(chip, name, heads)
        for name in ("dense_attention", "dense_attention_backward")
    )
    if not backward:
        return products / (peak * _PRODUCTS) + attention / forward_rate + vision / vision_rate
    # The backward pass costs two forward passes; what was not kept is recomputed.
    passes = 1 if setting.remat in ("all_attention", "attention") else 2
    recomputed = 0 if setting.remat == "all_attention" else vision / 3
    time = products * 4 / 3 / (peak * _PRODUCTS) + (vision * 5 / 3 + recomputed) / vision_rate
    factor = estimate.backward("attention", heads)
    return time + attention / 3 * (passes / forward_rate + factor / backward_rate)


def likely(work: Work, chip: Chip, devices: int, share: float) -> list[Setting]:
    """Settings estimated to fit in this share of the memory, the fastest first."""
    limit = share * chip.memory
    fitting = [s for s in settings(work, devices) if sum(memory(work, s).values()) <= limit]
    return sorted(fitting, key=lambda s: (seconds(work, s, chip), s.context, s.tensor))
