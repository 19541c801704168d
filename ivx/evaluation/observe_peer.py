"""What transformers makes of prompts, part by part, as `ivx.evaluation.observe` says of ours.

The prompts are run one by one and without padding. Positions, attention and DeepStack are all
transformers' own; it is given tokens, pixels and the grids of the videos.
"""

import inspect
from collections.abc import Sequence

import numpy as np

from data_pipelines.layout import Layout
from ivx.evaluation.agreement import LOGITS, Seen
from ivx.evaluation.observe import chosen_tokens, part_names
from ivx.hf import peer
from ivx.text.tokenizer import Tokenizer


def observe(
    model,
    tokenizer: Tokenizer,
    layouts: Sequence[Layout],
    pixels: Sequence[tuple],
    limit: int,
) -> list[Seen]:
    """Runs a model of `ivx.hf.peer.load`.

    Args:
      model: the torch model.
      tokenizer: of its answers.
      layouts: prompts that end with an open assistant turn.
      pixels: for each, what `Layout.read_patches` gave.
      limit: tokens an answer may have.
    """
    torch, transformers = peer.modules()
    end = tokenizer.end_of_turn
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=end, pad_token_id=end
    )
    layers = len(model.model.language_model.layers)
    names = part_names(layers, len(model.model.visual.deepstack_merger_list))
    seen = []
    for layout, (rows, _) in zip(layouts, pixels, strict=True):
        asked = inputs(model, layout, rows)
        length = len(layout.tokens)
        with torch.inference_mode():
            parts = _parts(model, asked, names, chosen_tokens(length), length)
            answer = model.generate(**asked)[0, length:].tolist()
        text = tokenizer.decode([token for token in answer if token != end])
        seen.append(Seen(parts, text))
    return seen


def inputs(model, layout: Layout, rows: Sequence[np.ndarray]) -> dict:
    """One prompt as the arguments of the torch model."""
    torch, _ = peer.modules()
    tokens = torch.tensor(layout.tokens[None].astype(np.int64))
    asked = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if rows:
        normalised = np.concatenate(rows).astype(np.float32) / 127.5 - 1
        grids = [(len(clip.times), *clip.patch_shape) for clip in layout.clips]
        asked["pixel_values_videos"] = torch.from_numpy(normalised).to(model.dtype)
        asked["video_grid_thw"] = torch.tensor(grids)
    # From version 5 on positions are found by this and no longer by the tokens.
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        asked["mm_token_type_ids"] = torch.tensor(2 * layout.is_visual[None].astype(np.int64))
    return asked


def _parts(
    model, asked: dict, names: Sequence[str], chosen: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Outputs of the named modules in one forward pass, at the chosen tokens."""
    kept = {}

    def keep(name: str):
        def hook(module, given, output):
            output = output[0] if isinstance(output, tuple) else output
            # A copy: DeepStack is added in place afterwards.
            kept[name] = output.detach().float().cpu().numpy().copy()

        return hook

    modules = {name: model.get_submodule(_path(name)) for name in names}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        model(**asked)
    finally:
        for handle in handles:
            handle.remove()
    flat = {name: kept[name].reshape(-1, kept[name].shape[-1]) for name in names if name in kept}
    return {
        name: array if name.startswith("visual.") else array[:length][chosen]
        for name, array in flat.items()
    }


def _path(name: str) -> str:
    return name if name == LOGITS else f"model.{name}"
