"""Forecast of the memory that a command needs, by arithmetic, before anything is read.

    reading     the parameters, and READING of them for blocks, checksums and copies
    training    parameters, moments, moving average, gradients, a teacher, activations, batches
    conversion  the larger of its statistics pass, its algebra and the matching of attention
    answering   parameters in the dtype of computation; on an accelerator the decoder's second copy
    export      parameters in the dtype of the export

On a CPU all of it is memory of the host. Elsewhere a device holds its shards, the host what is read
and the batches. Activations are counted on a CPU only (`ivx.aot.arithmetic`, in the dtype of
computation): there too much memory ends the process without a word, while the compiler of an
accelerator refuses a step with an explanation. Caches of rollouts are not counted;
`ivx compile --part=decode` has them.
"""

import dataclasses
import math

import jax
import ml_collections
from jax.sharding import Mesh

from ivx import from_config
from ivx.aot import arithmetic
from ivx.conversion import lossless_bfloat16, memory
from ivx.from_config.stored_model import StoredModel
from ivx.models.definition import ModelDefinition, Params, held_in
from ivx.models.spec import ModelSpec
from ivx.parallel import sharding
from ivx.parallel.mesh import AXES, make_mesh
from ivx.training.parameter_groups import ALL, ParameterGroups, dotted

Config = ml_collections.ConfigDict
Sizes = dict[str, float]

# What reading a model takes beyond its parameters: a share of them, and up to FIXED bytes. Small
# models take as many bytes as they have at most.
READING, FIXED = 0.3, 2**30


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Bytes by purpose at the fullest moment.

    Attributes:
      host: on this host.
      device: on each device; empty where devices use the memory of the host.
    """

    host: Sizes
    device: Sizes


@dataclasses.dataclass(frozen=True)
class _Moment:
    """What is held at one moment: on the host, and on each device."""

    host: Sizes
    device: Sizes


def training(config: Config, mesh: Mesh) -> Forecast:
    """The forecast of a training run.

    Raises:
      UserError: a pattern matches no parameter, the mesh does not divide one, or the start or the
        teacher is no model.
    """
    definition = from_config.model.training_definition(config)
    moments, frozen = [], {}
    if config.run.start:
        moments.append(_read(from_config.stored_model.open_model(config.run.start), mesh))
    if teacher := config.stage.get("teacher"):
        model = from_config.stored_model.open_model(teacher)
        frozen["teacher"] = _held(model.definition, mesh)
    return _fullest([*moments, _step(config, definition, mesh, frozen)], mesh)


def conversion(config: Config, base: StoredModel, mesh: Mesh) -> Forecast:
    """The forecast of a conversion.

    Args:
      config: of the conversion.
      base: the model to convert, with grouped attention.
      mesh: devices.

    Raises:
      UserError: the mesh does not divide a parameter.
    """
    spec, source = base.definition.spec, {"source": _compact(base.definition, mesh)}
    sums = memory.sizes(spec.text)
    algebra = {name: size for name, size in sums.items() if name != memory.BATCH_SUMS}
    collected = {name: sums[name] for name in (memory.SUMS, memory.BATCH_SUMS)}
    activations = _activations(config, spec, mesh, trains=False)
    moments = [
        _read(base, mesh),
        _Moment(collected | _batches(config, mesh), source | activations),
        _Moment(algebra, source),
    ]
    if config.stage.match:
        definition = from_config.model.training_definition(config)
        moments.append(_step(config, definition, mesh, source))
    return _fullest(moments, mesh)


def answering(model: StoredModel, mesh: Mesh | None = None) -> Forecast:
    """The forecast of a command that asks a stored model; without a mesh, on one device."""
    definition, dtype = model.definition, model.definition.spec.dtype
    mesh = mesh or make_mesh(dict.fromkeys(AXES, 1), jax.local_devices()[:1])
    held = {"parameters": _held(definition, mesh, dtype=dtype)}
    if not _on_cpu():
        layers = ParameterGroups(("language_model.layers.*",))
        held["the decoder once more, to decode"] = _held(definition, mesh, layers, dtype)
    return _fullest([_read(model, mesh, dtype), _Moment({}, held)], mesh)


def reading(definition: ModelDefinition, dtype: str = "float32") -> Forecast:
    """The forecast of a command that reads a model into the memory of the host.

    Args:
      definition: the model.
      dtype: of kernels and embeddings.
    """
    size = _bytes(held_in(dtype, definition.abstract_params))
    return Forecast({"parameters": size} | _extra(size), {})


# ------------------------------------------------------------------------------------- moments


def _step(config: Config, definition: ModelDefinition, mesh: Mesh, frozen: Sizes) -> _Moment:
    """A training step."""
    groups = from_config.training.parameter_groups(config)
    held, trained = _held(definition, mesh), _held(definition, mesh, groups)
    sizes = {"parameters": held, "optimizer moments": 2 * trained}
    # XLA holds gradients and updates at once on a CPU, and sums of micro-batches beside them.
    copies = (2 if _on_cpu() else 1) + (config.optim.accumulation > 1)
    sizes["gradients and updates"] = copies * trained
    if config.optim.ema:
        sizes["moving average"] = held
    if config.optim.lora_rank:
        targets = _held(definition, mesh, ParameterGroups(tuple(config.optim.lora_targets)))
        # W = W_0 + A B, and the gradient of W.
        sizes["kernels with LoRA, and their gradients"] = 2 * targets
    activations = _activations(config, definition.spec, mesh, trains=True)
    return _Moment(_batches(config, mesh), sizes | frozen | activations)


def _activations(config: Config, spec: ModelSpec, mesh: Mesh, trains: bool) -> Sizes:
    """Activations of a device, on a CPU."""
    if not _on_cpu():
        return {}
    data, sizes = config.data, mesh.shape
    work = arithmetic.Work(
        spec=spec,
        parameters=0,
        packs=data.batch_packs,
        tokens=data.pack_tokens,
        patches=data.pack_patches,
        flops={},
        trains=trains,
    )
    setting = arithmetic.Setting(
        fsdp=sizes["replica"] * sizes["fsdp"],
        tensor=sizes["tensor"],
        context=sizes["context"],
        accumulation=config.optim.accumulation if trains else 1,
        remat=config.model.remat,
    )
    # The arithmetic counts two bytes for a number. A CPU multiplies bfloat16 as float32, so it
    # holds activations in that, and the matrix of the vocabulary once more.
    table = 4 * spec.text.vocab * spec.text.width if spec.dtype == "bfloat16" else 0
    return {"activations": 2 * arithmetic.activations(work, setting) + table}


def _batches(config: Config, mesh: Mesh) -> Sizes:
    """Batches of this host: the one in training, those made ahead, and those of workers."""
    data = config.data
    packs = data.batch_packs * _Share.of(mesh).of_all
    size = packs * from_config.data.pack_shape(config).nbytes
    return {"batches": size * (1 + data.prefetch + 2 * data.workers)}


def _read(model: StoredModel, mesh: Mesh, dtype: str = "float32") -> _Moment:
    """Reading a stored model onto the devices, an array at a time."""
    held = _held(model.definition, mesh, dtype=dtype)
    return _Moment(_extra(held * _Share.of(mesh).devices), {"parameters": held})


def _extra(size: float) -> Sizes:
    """What reading takes beyond the parameters."""
    return {"reading": READING * size + min(FIXED, size)}


def _fullest(moments: list[_Moment], mesh: Mesh) -> Forecast:
    """The fullest moment of the host, and of a device."""
    if not _on_cpu():
        hosts, devices = ([getattr(m, place) for m in moments] for place in ("host", "device"))
        return Forecast(max(hosts, key=_total), max(devices, key=_total))
    share = _Share.of(mesh).devices
    joined = [m.host | {name: share * size for name, size in m.device.items()} for m in moments]
    return Forecast(max(joined, key=_total), {})


def _total(sizes: Sizes) -> float:
    return sum(sizes.values())


# ------------------------------------------------------------------------------------- sizes


@dataclasses.dataclass(frozen=True)
class _Share:
    """This host's devices of a mesh: how many, and which share of all."""

    devices: int
    of_all: float

    @classmethod
    def of(cls, mesh: Mesh) -> "_Share":
        """The share of the host that asks."""
        local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
        return cls(local, local / mesh.size)


def _held(
    definition: ModelDefinition, mesh: Mesh, groups: ParameterGroups = ALL, dtype: str = "float32"
) -> float:
    """Bytes of a group that one device holds; `dtype` is of kernels and embeddings."""
    sizes = jax.tree_util.tree_map_with_path(
        lambda path, leaf, held: (
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * held.dtype.itemsize
            if groups.trains(dotted(path))
            else 0
        ),
        _shapes(definition, mesh),
        held_in(dtype, definition.abstract_params),
    )
    return sum(jax.tree.leaves(sizes))


def _compact(definition: ModelDefinition, mesh: Mesh) -> float:
    """Bytes of a device for parameters that are bfloat16 where a conversion holds them so."""
    shapes = lossless_bfloat16.compact_shapes(_shapes(definition, mesh))
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(shapes)
    )


def _shapes(definition: ModelDefinition, mesh: Mesh) -> Params:
    """Shapes of float32 parameters with their shardings."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        definition.abstract_params,
        sharding.parameter_shardings(definition.abstract, mesh),
    )


def _bytes(shapes: Params) -> int:
    """Bytes of parameters."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
