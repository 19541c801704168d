"""Memory and time of a step by arithmetic: to try the likely meshes first, no more.

The compiler has the last word on whether a step fits; this only orders what it is asked, and leaves
out what cannot fit. Of a device, in bytes:

    state      12 a parameter: float32 master and two moments
    gradients  4 a parameter, 8 where micro-batches are summed
    teacher    4 a parameter of it, float32: it lies there, and nothing of it is kept
    sums       of a statistics pass, which has parameters alone as its state: whole on every device
    kept       what the remat policy keeps of every layer, and of every block of the tower
    working    the largest of what is alive in one layer: features, keys and values of a group of
               heads, and their gradients, weights gathered for it
"""

import dataclasses
import itertools
from collections.abc import Iterator

from ivx.aot import estimate
from ivx.aot.chips import Chip
from ivx.kernels.latent_attention import ALIVE, heads_at_a_time
from ivx.models import work as flops
from ivx.models.spec import ModelSpec, TextSpec

# Policies that are worth a try: the others keep several times as much.
POLICIES = ("all_attention", "attention", "latent", "layer", "offload")
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
      trains: False of a statistics pass, which goes forward alone.
      teacher: sizes of a model that goes forward beside, or None.
      teacher_parameters: how many it has.
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
    """All that divide evenly: axes by powers of two, at most four packs a device at a time.

    A statistics pass sums over whole packs, over all of a batch at once, and has nothing to keep.
    """
    powers = [2**n for n in range(devices.bit_length()) if devices % 2**n == 0]
    for fsdp, tensor in itertools.product(powers, powers):
        context, rest = divmod(devices, fsdp * tensor)
        micro, uneven = divmod(work.packs, fsdp)
        if rest or uneven or work.tokens % (2 * context):
            continue
        if not all(_divides(model, fsdp, tensor, context) for model in work.models):
            continue
        if not work.trains:
            if context == 1:
                yield Setting(fsdp, tensor, context, 1, "none")
            continue
        for packs, remat in itertools.product((1, 2, 4), POLICIES):
            if micro % packs == 0:
                yield Setting(fsdp, tensor, context, micro // packs, remat)


def _divides(model: ModelSpec, fsdp: int, tensor: int, context: int) -> bool:
    uneven = model.text.width % (fsdp * context) or model.vision.width % fsdp
    return not uneven and splits(model.text, tensor)


def splits(text: TextSpec, tensor: int) -> bool:
    """Whether layers split evenly over so many devices; heads of keys may be on all of them."""
    return not any(size % tensor for size in (text.heads, text.mlp, text.vocab))


def memory(work: Work, setting: Setting) -> dict[str, float]:
    """Bytes on a device, by what they are for; what there is none of is left out."""
    held = work.parameters / setting.devices
    working = max(
        _working(model, work, setting, backward=work.trains and model is work.spec)
        for model in work.models
    )
    found = {"kept": _kept(work, setting), "working": working}
    if not work.trains:
        return found | {"state": 4 * held, "sums": 4 * flops.statistics(work.spec)}
    if work.teacher:
        found["teacher"] = 4 * work.teacher_parameters / setting.devices
    gradients = (8 if setting.accumulation > 1 else 4) * held
    return found | {"state": 12 * held, "gradients": gradients}


def _tokens(work: Work, setting: Setting) -> tuple[float, float]:
    """Packs at a time, and tokens of them on a device."""
    packs = work.packs / (setting.fsdp * setting.accumulation)
    return packs, packs * work.tokens / setting.context


def _kept(work: Work, setting: Setting) -> float:
    """For a backward pass, and what the tower gives to layers of the decoder."""
    text, vision = work.spec.text, work.spec.vision
    packs, tokens = _tokens(work, setting)
    patches = packs * work.patches / (setting.context * setting.tensor)
    taps = 2 * patches * len(vision.taps) * vision.width
    # Their features at every token, and the slopes of these.
    taps += (4 if work.trains else 2) * tokens * len(vision.taps) * text.width
    if not work.trains:
        return taps
    residual = 0 if setting.remat == "offload" else 2 * text.width
    wide = text.heads * text.head_dim // setting.tensor
    # Of grouped attention there is no latent to keep.
    latent = 0 if text.attention == "gqa" else 2 * (text.kv_rank + text.head_dim)
    attended = latent + 2 * wide + 4 * text.heads // setting.tensor
    more = {"latent": latent, "attention": attended, "all_attention": attended}
    seen = 0 if setting.remat == "offload" else 2 * vision.width
    if setting.remat == "all_attention":
        seen += 2 * vision.width + 4 * vision.heads
    kept = tokens * text.depth * (residual + more.get(setting.remat, 0))
    return kept + patches * vision.depth * seen + taps


def _working(model: ModelSpec, work: Work, setting: Setting, backward: bool) -> float:
    """Of the layer of a model, going forward, and back too if it does."""
    text, both = model.text, 2 if backward else 1
    packs, tokens = _tokens(work, setting)
    wide = text.heads * text.head_dim // setting.tensor
    if text.attention == "gqa":
        narrow = text.kv_heads * text.head_dim
        layer = text.width * (2 * wide + 2 * narrow // setting.tensor)
        keys, queries = 2 * narrow, 2 * wide
    else:
        layer = 4 * text.width * wide
        # Keys twice as wide as values.
        most = int(ALIVE / (packs * work.tokens))
        together = heads_at_a_time(text.heads // setting.tensor, most)
        keys, queries = 3 * together * text.head_dim, 3 * wide
    layer += 3 * text.width * text.mlp // setting.tensor
    features = both * tokens * (4 * text.width + 4 * text.mlp // setting.tensor)
    attention = 2 * both * (packs * work.tokens * keys + tokens * queries)
    return 2 * both * layer + max(features, attention)


def seconds(work: Work, setting: Setting, chip: Chip) -> float:
    """Of a step whose exchanges do not hide: products, attention, exchanges."""
    own = {part: n for part, n in work.flops.items() if not part.startswith("teacher's ")}
    time = _computing(own, work.spec, setting, chip, work.trains)
    if work.teacher:
        taught = {part.removeprefix("teacher's "): n for part, n in work.flops.items()
                  if part not in own}  # fmt: skip
        time += _computing(taught, work.teacher, setting, chip, backward=False)
    # Weights come in bfloat16, twice where layers are made again; their gradient goes in float32.
    share = 1 - 1 / (setting.fsdp * setting.context)
    each = (2 + 2 + 4) * work.parameters if work.trains else 2 * work.parameters
    each += 2 * work.teacher_parameters
    sent = setting.accumulation * each / setting.tensor * share
    if not work.trains:
        sent += 2 * 4 * flops.statistics(work.spec) * (1 - 1 / setting.fsdp)
    tokens = work.packs * work.tokens / (setting.fsdp * setting.context)
    # Over `tensor`, what attention and feed-forward give is summed: forward, again, and back.
    for model in work.models:
        times = 6 if work.trains and model is work.spec else 2
        each = model.text.depth * times * 2 * 2 * tokens * model.text.width
        sent += each * (1 - 1 / setting.tensor)
    return time + sent / (2 * chip.link)


def _computing(
    flops: dict[str, float], model: ModelSpec, setting: Setting, chip: Chip, backward: bool
) -> float:
    """Seconds of products and attention of one model; forward alone, or a training step."""
    peak = setting.devices * chip.peak
    heads = "grouped" if model.text.attention == "gqa" else "latent"
    attention, vision = flops["attention"], flops["vision attention"]
    products = sum(flops.values()) - attention - vision
    seen = peak * estimate.kernel_share(chip, "vision_attention")
    forward, back = (
        peak * estimate.kernel_share(chip, name, heads)
        for name in ("dense_attention", "dense_attention_backward")
    )
    if not backward:
        return products / (peak * _PRODUCTS) + attention / forward + vision / seen
    # A useful pass forward and twice that back; what was not kept is made again.
    passes = 1 if setting.remat in ("all_attention", "attention") else 2
    again = 0 if setting.remat == "all_attention" else vision / 3
    time = products * 4 / 3 / (peak * _PRODUCTS) + (vision * 5 / 3 + again) / seen
    return time + attention / 3 * (passes / forward + estimate.backward("attention", heads) / back)


def likely(work: Work, chip: Chip, devices: int, share: float) -> list[Setting]:
    """Settings that may fit into this share of the memory, the fastest first."""
    room = share * chip.memory
    fitting = [one for one in settings(work, devices) if sum(memory(work, one).values()) <= room]
    return sorted(fitting, key=lambda one: (seconds(work, one, chip), one.context, one.tensor))
