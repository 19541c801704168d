"""`ivx bench model`: prefill and decoding of a text prompt, in float32, beside transformers.

prefill  the prompt in one pass, to the scores of the next token
decode   greedy tokens one by one from its cache

The peer has the same weights: they are exported and loaded by transformers, and what both answer
is compared before anything is timed. It decodes by `generate`, whose time for one token is taken
off. Latent attention is shown too, of the same widths and with half the cache; it has no peer.
"""

import dataclasses
import functools
import pathlib
import tempfile

from absl import flags

from ivx.commands.bench import timing

PEERS = ("transformers",)
SIZES = ("64m", "tiny")
# What ivx aims at, as multiples of the peer's tokens a second.
TARGETS = {"prefill": 1.2, "decode": 2.0}
_PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers")


def define_flags() -> None:
    flags.DEFINE_enum("peer", None, list(PEERS), "bench model: what to run beside ivx.")
    flags.DEFINE_enum("size", "64m", list(SIZES), "bench model: about 64 M parameters, or few.")
    flags.DEFINE_integer("prompt_tokens", 512, "bench model: tokens of the prompt.", 2)
    flags.DEFINE_integer("new_tokens", 64, "bench model: tokens decoded.", 1)


def run(given) -> dict:
    cores = timing.use_cores(given.threads)
    before = timing.load()
    contestants = {}
    with tempfile.TemporaryDirectory() as folder:
        for attention in ("gqa", "m2la"):
            model = _Ours(spec(given.size, attention), given.prompt_tokens, given.new_tokens)
            contestants |= {
                ("ivx", attention, "prefill"): model.prefill,
                ("ivx", attention, "decode"): model.decode,
            }
            if given.peer and attention == "gqa":
                other = _Theirs(model, pathlib.Path(folder) / "model", cores)
                contestants |= {
                    (given.peer, attention, "prefill"): other.prefill,
                    (given.peer, attention, "decode"): other.decode,
                    (given.peer, attention, "first"): other.first,
                }
        times = timing.take_turns(contestants, given.repeats)
    result = {
        "machine": timing.machine(_PACKAGES) | {"cores": cores},
        "load": [before, timing.load()],
        "prompt_tokens": given.prompt_tokens,
        "new_tokens": given.new_tokens,
        "repeats": given.repeats,
        "rows": _rows(times, given.prompt_tokens, given.new_tokens),
    }
    if given.peer:
        result["ratios"] = _ratios(result["rows"], given.peer)
    print(_page(result))
    return result


def spec(size: str, attention: str):
    """A decoder of the named size with the smallest of towers, computing in float32."""
    from ivx.models.spec import ModelSpec, TextSpec, VisionSpec

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
        # Half the numbers of grouped attention in the cache, as in the release.
        kv_rank=(kv_heads - 1) * head_dim,
        mlp=mlp,
        vocab=vocab,
        rope_theta=5e6,
        mrope_sections=(head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6),
    )
    vision = VisionSpec(depth=1, width=32, heads=2, mlp=64, taps=(0,), table_side=4)
    return ModelSpec(vision, text, "float32")


class _Ours:
    """A model of random weights and one prompt of random tokens.

    Args:
      spec: its sizes.
      prompt: tokens of the prompt.
      new: tokens to decode after the first.
    """

    def __init__(self, spec, prompt: int, new: int):
        import jax
        import numpy as np

        from data_pipelines.layout import Layout
        from ivx.models.definition import ModelDefinition
        from ivx.sampling import programs, sampler

        self.definition, self.new = ModelDefinition(spec), new
        self.params = self.definition.init(0)
        # Below the special tokens of the compact tokenizer.
        self.tokens = np.random.default_rng(0).integers(0, 700, prompt).astype(np.int32)
        places = np.tile(np.arange(prompt, dtype=np.int32), (3, 1))
        none = np.zeros(prompt, bool)
        layout = Layout("bench", self.tokens, none, places, none, ())
        prompts = sampler.batch_prompts([layout], [([], [])])
        self._asked = jax.device_put((prompts.batch, prompts.lengths))
        self._follow = jax.device_put((prompts.lengths, prompts.next_positions, jax.random.key(0)))
        capacity = prompts.batch.tokens.shape[1] + new + 1
        self._prefill = jax.jit(
            functools.partial(programs.prefill, self.definition, capacity=capacity)
        )
        # No token has this id: an answer never ends before its limit.
        self._layers = jax.jit(functools.partial(programs.unstack, self.definition))(self.params)
        decode = functools.partial(programs.decode, self.definition, -1)
        self._decode = jax.jit(functools.partial(decode, temperature=0.0, limit=new + 1))
        self._wait = jax.block_until_ready
        self.prefill()

    def prefill(self) -> None:
        """Runs the prompt."""
        self._filled = self._wait(self._prefill(self.params, *self._asked))

    def decode(self) -> None:
        """Continues it from its cache."""
        self.decoded, _ = self._wait(
            self._decode(self.params, self._layers, self._filled, *self._follow)
        )


class _Theirs:
    """The same model in transformers, written to `folder` on the way.

    Raises:
      UserError: transformers is not installed, or answers otherwise.
    """

    def __init__(self, ours: _Ours, folder: pathlib.Path, cores: int):
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
                "ivx and transformers answer the same prompt differently, so that their times"
                " mean nothing; see where with `ivx verify --peer=transformers`"
            )

    def prefill(self) -> None:
        """Runs the prompt."""
        with self._torch.inference_mode():
            self._model(input_ids=self._tokens, logits_to_keep=1)

    def decode(self) -> None:
        """Runs the prompt and continues it."""
        self._generate(self._new + 1)

    def first(self) -> None:
        """Runs the prompt and chooses one token: what `decode` takes besides decoding."""
        self._generate(1)

    def _generate(self, count: int):
        return self._model.generate(
            input_ids=self._tokens,
            attention_mask=self._torch.ones_like(self._tokens),
            max_new_tokens=count,
        )


def _rows(times: dict, prompt: int, new: int) -> list[dict]:
    """Tokens a second of each contestant."""
    rows = []
    for (name, attention, phase), found in times.items():
        if phase == "first":
            continue
        first = times.get((name, attention, "first")) if phase == "decode" else None
        turns = found.turns
        if first is not None:
            turns = tuple(a - b for a, b in zip(turns, first.turns, strict=True))
        taken = dataclasses.replace(found, turns=turns)
        count = prompt if phase == "prefill" else new
        rows.append(
            {
                "name": name,
                "attention": attention,
                "phase": phase,
                "tokens_per_second": round(count / taken.median, 1),
                "spread": taken.spread,
                "seconds": [round(turn, 5) for turn in turns],
            }
        )
    return rows


def _ratios(rows: list[dict], peer: str) -> dict[str, float]:
    """Tokens a second of ivx over those of the peer, by phase."""
    speed = {
        (row["name"], row["phase"]): row["tokens_per_second"]
        for row in rows
        if row["attention"] == "gqa"
    }
    return {phase: round(speed["ivx", phase] / speed[peer, phase], 2) for phase in TARGETS}


def _page(result: dict) -> str:
    """The result for reading."""
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
        lines.append(f"{phase}: {ratio:.2f} times the peer, wanted {TARGETS[phase]:g}")
    return "\n".join(lines)
