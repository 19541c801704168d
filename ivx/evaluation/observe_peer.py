"""What transformers makes of prompts, part by part, as `ivx.evaluation.observe` says of ours.

The prompts are run one by one and without padding. Positions, attention and DeepStack are all
transformers' own; it is given tokens, pixels and the grids of videos and images.
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
        seen.append(Seen(_in_order(parts, layout, model.config.image_token_id), text))
    return seen


def inputs(model, layout: Layout, rows: Sequence[np.ndarray]) -> dict:
    """One prompt as the arguments of the torch model."""
    torch, _ = peer.modules()
    tokens = torch.tensor(layout.tokens[None].astype(np.int64))
    asked = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    stills = [clip.still for clip in layout.clips for _ in clip.times]
    for still, pixels, grid in (
        (True, "pixel_values", "image_grid_thw"),
        (False, "pixel_values_videos", "video_grid_thw"),
    ):
        grids = [(len(c.times), *c.patch_shape) for c in layout.clips if c.still == still]
        if grids:
            own = [row for row, kind in zip(rows, stills, strict=True) if kind == still]
            normalised = np.concatenate(own).astype(np.float32) / 127.5 - 1
            asked[pixels] = torch.from_numpy(normalised).to(model.dtype)
            asked[grid] = torch.tensor(grids)
    # From version 5 on positions are found by this and no longer by the tokens.
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        is_image = tokens == model.config.image_token_id
        is_video = tokens == model.config.video_token_id
        asked["mm_token_type_ids"] = is_image.long() + 2 * is_video.long()
    return asked


def _parts(
    model, asked: dict, names: Sequence[str], chosen: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Outputs of the named modules in one forward pass, at the chosen tokens.

    The tower runs twice where there are both: its outputs hold the images first, then the videos.
    """
    kept = {}

    def keep(name: str):
        def hook(module, given, output):
            output = output[0] if isinstance(output, tuple) else output
            # A copy: DeepStack is added in place afterwards.
            array = output.detach().float().cpu().numpy().copy()
            kept.setdefault(name, []).append(array.reshape(-1, array.shape[-1]))

        return hook

    modules = {name: model.get_submodule(_path(name)) for name in names}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        model(**asked)
    finally:
        for handle in handles:
            handle.remove()
    flat = {name: np.concatenate(kept[name]) for name in names if name in kept}
    return {
        name: array if name.startswith("visual.") else array[:length][chosen]
        for name, array in flat.items()
    }


def _in_order(
    parts: dict[str, np.ndarray], layout: Layout, image_token: int
) -> dict[str, np.ndarray]:
    """Puts what the tower gave, images before videos, in the order of the tokens."""
    is_image = layout.tokens[layout.is_visual] == image_token
    back = np.argsort(np.argsort(~is_image, kind="stable"))
    return {
        name: array[back] if name.startswith("visual.") else array for name, array in parts.items()
    }


def _path(name: str) -> str:
    return name if name == LOGITS else f"model.{name}"
