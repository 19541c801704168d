"""One of several processes that train on their own samples, by GSPO (two steps per rollout) or OPD.

python -m tests.multi_process.rolls gspo WORKDIR DATA fsdp=4 context=2
"""

import dataclasses
import pathlib
import sys

import jax
import optax

from data_pipelines import layout, packing, sources
from data_pipelines.loader import LoaderOptions
from data_pipelines.video import frames, resize
from ivx.evaluation import runner
from ivx.models.definition import ModelDefinition
from ivx.parallel import batches, devices, hosts, mesh, sharding
from ivx.sampling.sampler import Sampler
from ivx.stages import gspo, rollouts
from ivx.stages.distillation import DistillationStage
from ivx.stages.questions import Questions
from ivx.text import tokenizer
from ivx.training import loop
from tests.small import small_spec

STEPS = 3
MODEL = ModelDefinition(small_spec())
ROOM = packing.PackShape(tokens=512, patches=480, slice_block=48)
SPEC = rollouts.RolloutSpec(group=2, temperature=1.0, limit=6, seed=7)
PROMPTS, PACKS = 8, 8


class Finished(rollouts.Roller):
    """Treats every answer as ended, since an untrained model rarely ends its turn."""

    def roll(self, params, number):
        found, skipped = super().roll(params, number)
        return [dataclasses.replace(one, ended=True) for one in found], skipped


def by_length(truth):
    """A reward that an untrained model sometimes gets."""
    return lambda text, truth: len(text) % 3 / 2


def _roller(data: pathlib.Path, devices, share) -> rollouts.Roller:
    [member] = sources.read_mixture(data / "data.json", ("synthetic_test",))
    rule = layout.LayoutRule(
        tokenizer.load("compact"),
        frames.FrameRule(fps=1.0, min_frames=2, max_frames=16),
        resize.PixelBudget(4 * 32 * 32, 16 * 64 * 64),
        resize.PixelBudget(4 * 32 * 32, 12 * 32 * 32),
    )
    options = LoaderOptions(workers=0, threads=2, prefetch=2, cache_bytes=2**26)
    asked = [runner.as_prompt(sample) for sample in sources.read_samples(member)]
    questions = Questions(asked, rule, PROMPTS, SPEC.seed, options, share)
    sampler = Sampler(MODEL, {}, rule.tokenizer.end_of_turn, devices)
    return Finished(questions, rule.tokenizer, sampler, SPEC)


def train(kind: str, workdir: pathlib.Path, data: pathlib.Path, sizes: dict[str, int]) -> None:
    """Trains on a mesh over all devices of all processes."""
    devices = mesh.make_mesh(dict.fromkeys(mesh.AXES, 1) | sizes)
    share = batches.pack_share(devices)
    roller, packs = _roller(data, devices, share), PACKS // share.count
    if kind == "gspo":
        spec = gspo.GspoSpec(2, 3e-4, 4e-4)
        stage = gspo.GspoStage(roller, MODEL, ROOM, packs, spec, SPEC.group, devices)
        gspo.reward_of = by_length
    else:
        teacher = ModelDefinition(small_spec("gqa"))

        def load(devices):
            shardings = sharding.parameter_shardings(teacher.abstract, devices)
            return jax.jit(lambda: teacher.init(5), out_shardings=shardings)()

        stage = DistillationStage(roller, teacher, load, ROOM, packs, [])
    workdir.mkdir(parents=True, exist_ok=True)
    length = loop.Length(STEPS, 1, log_every=1, validate_every=10, save_every=10, keep=1)
    loop.train(loop.Run(workdir, "{}", MODEL, stage, optax.sgd(0.1), devices, length))


if __name__ == "__main__":
    devices.configure_devices(cpu_devices=0)
    hosts.join(seconds=300)
    given = {name: int(size) for name, size in (word.split("=") for word in sys.argv[4:])}
    train(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), given)
