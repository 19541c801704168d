"""`python -m benchmarks model`: prefill and decoding of a text prompt in float32.

prefill  the prompt in one pass, up to the logits of the next token
decode   greedy decoding from its cache, token by token

With `--peer=transformers` transformers runs the same exported weights, and both answers are
compared before anything is timed. The peer decodes by `generate`; the time that it takes for one
token is subtracted. Latent attention of the same widths, with half the cache, is timed too; it has
no peer.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks import timing
from ivx.models.spec import ModelSpec, TextSpec, VisionSpec

PEERS = ("transformers",)
SIZES = ("64m", "tiny")
# Goals, as multiples of the peer's tokens a second.
TARGETS = {"prefill": 1.2, "decode": 2.0}
_PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers")

SUMMARY = "Prefill and decoding of a text prompt, compared with transformers."
EXAMPLE = (
    "  python -m benchmarks model --peer=transformers\n"
    "  python -m benchmarks model --threads=2 --prompt_tokens=512 --new_tokens=64 --json"
)


def define_flags() -> None:
    """Defines the flags of this benchmark."""
    timing.define_flags()
    flags.DEFINE_enum("peer", None, list(PEERS), "Library to compare with.")
    flags.DEFINE_enum("size", "64m", list(SIZES), "Model size: 64 M parameters, or a tiny model.")
    flags.DEFINE_integer("prompt_tokens", 512, "Tokens of the prompt.", 2)
    flags.DEFINE_integer("new_tokens", 64, "Decoded tokens.", 1)


def run(flag_values: Any, words: Sequence[str] = ()) -> dict:
    """Times both kinds of attention and, if selected, the peer."""
    del words
    cores = timing.use_cores(flag_values.threads)
    before = timing.load()
    contestants = {}
    with tempfile.TemporaryDirectory() as folder:
        for attention in ("gqa", "m2la"):
            sizes = spec(flag_values.size, attention)
            model = _Ours(sizes, flag_values.prompt_tokens, flag_values.new_tokens)
            contestants |= {
                ("ivx", attention, "prefill"): model.prefill,
                ("ivx", attention, "decode"): model.decode,
            }
            if flag_values.peer and attention == "gqa":
                other = _Theirs(model, pathlib.Path(folder) / "model", cores)
                contestants |= {
                    (flag_values.peer, attention, "prefill"): other.prefill,
                    (flag_values.peer, attention, "decode"): other.decode,
                    (flag_values.peer, attention, "first"): other.first,
                }
        times = timing.take_turns(contestants, flag_values.repeats)
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores},
        "load": [before, timing.load()],
        "prompt_tokens": flag_values.prompt_tokens,
        "new_tokens": flag_values.new_tokens,
        "repeats": flag_values.repeats,
        "rows": _rows(times, flag_values.prompt_tokens, flag_values.new_tokens),
    }
    if flag_values.peer:
        result["ratios"] = _ratios(result["rows"], flag_values.peer)
    print(_page(result))
    return result


def spec(size: str, attention: str) -> ModelSpec:
    """A decoder of the named size with a minimal vision tower, in float32."""
    depth, width, heads, kv_heads, head_dim, mlp, vocab = {
        "64m": (12, 640, 10, 2, 64, 1792, 8192),
        "tiny": (2, 64, 4, 2, 16, 128, 768),
    }[size]
    text = TextSpec(
        attention=attention,
        depth=depth,
        width=width,
        heads=heads,
        head_dim=head_dim,
        kv_heads=kv_heads,
        # Half the cache of grouped attention, as in the release.
        kv_rank=(kv_heads - 1) * head_dim,
        mlp=mlp,
        vocab=vocab,
        rope_theta=5e6,
        mrope_sections=(head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6),
    )
    vision = VisionSpec(depth=1, width=32, heads=2, mlp=64, taps=(0,), table_side=4)
    return ModelSpec(vision, text, "float32")


class _Ours:
    """A model with random weights and one prompt of random tokens.

    Args:
      spec: sizes of the model.
      prompt: tokens of the prompt.
      new: tokens to decode after the first.
    """

    def __init__(self, spec: ModelSpec, prompt: int, new: int) -> None:
        import jax
        import numpy as np

        from data_pipelines.layout import Layout
        from ivx.models.definition import ModelDefinition
        from ivx.sampling import programs, sampler

        self.definition, self.new = ModelDefinition(spec), new
        self.params = self.definition.init(0)
        # Ids below the special tokens of the compact tokenizer.
        self.tokens = np.random.default_rng(0).integers(0, 700, prompt).astype(np.int32)
        positions = np.tile(np.arange(prompt, dtype=np.int32), (3, 1))
        none = np.zeros(prompt, bool)
        layout = Layout("bench", self.tokens, none, positions, none, ())
        prompts = sampler.batch_prompts([layout], [([], [])])
        self._prompt = jax.device_put((prompts.batch, prompts.lengths))
        self._follow = jax.device_put((prompts.lengths, prompts.next_positions, jax.random.key(0)))
        capacity = prompts.batch.tokens.shape[1] + new + 1
        self._prefill = jax.jit(
            functools.partial(programs.prefill, self.definition, capacity=capacity)
        )
        # No token has the end id -1, so an answer never ends before its limit.
        self._layers = jax.jit(functools.partial(programs.unstack, self.definition))(self.params)
        decode = functools.partial(programs.decode, self.definition, -1)
        self._decode = jax.jit(functools.partial(decode, temperature=0.0, limit=new + 1))
        self._wait = jax.block_until_ready
        self.prefill()

    def prefill(self) -> None:
        """Runs the prompt."""
        self._cache = self._wait(self._prefill(self.params, *self._prompt))

    def decode(self) -> None:
        """Continues it from its cache."""
        self.decoded, _ = self._wait(
            self._decode(self.params, self._layers, self._cache, *self._follow)
        )


class _Theirs:
    """The same model in transformers, exported to `folder`.

    Raises:
      UserError: transformers is not installed, or gives another answer.
    """

    def __init__(self, ours: _Ours, folder: pathlib.Path, cores: int) -> None:
        import numpy as np

        from ivx.errors import UserError
        from ivx.hf import peer, processor, write
        from ivx.text import compact_tokenizer

        torch, transformers = peer.modules()
        torch.set_num_threads(cores)
        rules = processor.FrameRules()
        write.export(
            folder, ours.definition, ours.params, compact_tokenizer.PATH, rules, {}, "float32"
        )
        self._model, self._torch = peer.load(folder), torch
        self._new = ours.new
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False, eos_token_id=None, pad_token_id=0
        )
        self._tokens = torch.tensor(ours.tokens[None].astype(np.int64))
        ours.decode()
        answer = self._generate(ours.new + 1)[0, len(ours.tokens) :].tolist()
        if answer != np.asarray(ours.decoded.tokens)[0].tolist():
            raise UserError(
                "ivx and transformers answer the same prompt differently, so their times are not"
                " comparable; find the difference with `ivx verify --peer=transformers`"
            )

    def prefill(self) -> None:
        """Runs the prompt."""
        with self._torch.inference_mode():
            self._model(input_ids=self._tokens, logits_to_keep=1)

    def decode(self) -> None:
        """Runs the prompt and continues it."""
        self._generate(self._new + 1)

    def first(self) -> None:
        """Runs the prompt and chooses one token, the part of `decode` that is subtracted."""
        self._generate(1)

    def _generate(self, count: int) -> Any:
        return self._model.generate(
            input_ids=self._tokens,
            attention_mask=self._torch.ones_like(self._tokens),
            max_new_tokens=count,
        )


def _rows(times: Mapping, prompt: int, new: int) -> list[dict]:
    """Tokens a second of each contestant."""
    rows = []
    for (name, attention, phase), measured in times.items():
        if phase == "first":
            continue
        first = times.get((name, attention, "first")) if phase == "decode" else None
        turns = measured.turns
        if first is not None:
            turns = tuple(a - b for a, b in zip(turns, first.turns, strict=True))
        decoding = dataclasses.replace(measured, turns=turns)
        count = prompt if phase == "prefill" else new
        rows.append(
            {
                "name": name,
                "attention": attention,
                "phase": phase,
                "tokens_per_second": round(count / decoding.median, 1),
                "spread": decoding.spread,
                "seconds": [round(turn, 5) for turn in turns],
            }
        )
    return rows


def _ratios(rows: list[dict], peer: str) -> dict[str, float]:
    """Tokens a second of ivx over the peer, by phase."""
    speed = {
        (row["name"], row["phase"]): row["tokens_per_second"]
        for row in rows
        if row["attention"] == "gqa"
    }
    return {phase: round(speed["ivx", phase] / speed[peer, phase], 2) for phase in TARGETS}


def _page(result: dict) -> str:
    """The result as printed."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        machine,
        f"load {result['load'][0]} before, {result['load'][1]} after;"
        f" prompt of {result['prompt_tokens']:,} tokens, {result['new_tokens']:,} new,"
        f" float32, medians of {result['repeats']} turns",
        f"{'':14s} {'attention':9s} {'phase':8s} {'tokens/s':>9s}  shortest - longest turn",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:14s} {row['attention']:9s} {row['phase']:8s}"
            f" {row['tokens_per_second']:9,.1f}  {row['spread']}"
        )
    for phase, ratio in result.get("ratios", {}).items():
        lines.append(f"{phase}: {ratio:.2f} times the peer, goal {TARGETS[phase]:g}")
    return "\n".join(lines)
