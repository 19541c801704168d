"""Records the activations of transformers' model, as `ivx.evaluation.activations` does of ours.

Prompts run one at a time and without padding. Positions, attention and DeepStack are transformers'
own; it gets tokens, pixels and the grids of videos and images.

Torch is optional, so its objects are annotated `Any`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.frame_cache import Pixels
from data_pipelines.layout import Layout
from ivx.evaluation.activations import chosen_tokens, part_names
from ivx.evaluation.agreement import LOGITS, Outputs
from ivx.hf import peer
from ivx.text.tokenizer import Tokenizer


def record(
    model: Any,
    tokenizer: Tokenizer,
    layouts: Sequence[Layout],
    pixels: Sequence[Pixels],
    limit: int,
) -> list[Outputs]:
    """Runs a model that `ivx.hf.peer.load` returned.

    Args:
      model: the torch model.
      tokenizer: decodes the answers.
      layouts: prompts that end with an open assistant turn.
      pixels: what `Layout.read_patches` returned for each.
      limit: maximum tokens of an answer.
    """
    torch, transformers = peer.modules()
    end = tokenizer.end_of_turn
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=end, pad_token_id=end
    )
    layers = len(model.model.language_model.layers)
    names = part_names(layers, len(model.model.visual.deepstack_merger_list))
    outputs = []
    for layout, (rows, _) in zip(layouts, pixels, strict=True):
        arguments = inputs(model, layout, rows)
        length = len(layout.tokens)
        with torch.inference_mode():
            parts = _parts(model, arguments, names, chosen_tokens(length), length)
            answer = model.generate(**arguments)[0, length:].tolist()
        text = tokenizer.decode([token for token in answer if token != end])
        outputs.append(Outputs(_in_token_order(parts, layout, model.config.image_token_id), text))
    return outputs


def inputs(model: Any, layout: Layout, rows: Sequence[np.ndarray]) -> dict[str, Any]:
    """The arguments of the torch model for one prompt."""
    torch, _ = peer.modules()
    tokens = torch.tensor(layout.tokens[None].astype(np.int64))
    arguments = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    stills = [clip.still for clip in layout.clips for _ in clip.times]
    for still, pixels, grid in (
        (True, "pixel_values", "image_grid_thw"),
        (False, "pixel_values_videos", "video_grid_thw"),
    ):
        grids = [(len(c.times), *c.patch_shape) for c in layout.clips if c.still == still]
        if grids:
            patches = [row for row, kind in zip(rows, stills, strict=True) if kind == still]
            normalised = np.concatenate(patches).astype(np.float32) / 127.5 - 1
            arguments[pixels] = torch.from_numpy(normalised).to(model.dtype)
            arguments[grid] = torch.tensor(grids)
    # From version 5 on, transformers derives positions from these types instead of the tokens.
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        is_image = tokens == model.config.image_token_id
        is_video = tokens == model.config.video_token_id
        arguments["mm_token_type_ids"] = is_image.long() + 2 * is_video.long()
    return arguments


def _parts(
    model: Any, arguments: dict[str, Any], names: Sequence[str], chosen: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Outputs of the named modules in one forward pass, at the chosen tokens.

    With both images and videos the tower runs twice; its outputs hold the images first.
    """
    recorded = {}

    def record(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            # A copy, because DeepStack is added in place later.
            array = output.detach().float().cpu().numpy().copy()
            recorded.setdefault(name, []).append(array.reshape(-1, array.shape[-1]))

        return hook

    modules = {name: model.get_submodule(_path(name)) for name in names}
    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        model(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    flat = {name: np.concatenate(recorded[name]) for name in names if name in recorded}
    return {
        name: array if name.startswith("visual.") else array[:length][chosen]
        for name, array in flat.items()
    }


def _in_token_order(
    parts: dict[str, np.ndarray], layout: Layout, image_token: int
) -> dict[str, np.ndarray]:
    """Reorders the tower's outputs from images-first to the order of the tokens."""
    is_image = layout.tokens[layout.is_visual] == image_token
    back = np.argsort(np.argsort(~is_image, kind="stable"))
    return {
        name: array[back] if name.startswith("visual.") else array for name, array in parts.items()
    }


def _path(name: str) -> str:
    return name if name == LOGITS else f"model.{name}"
