"""The model card (README.md) of an exported folder."""

from collections.abc import Mapping

from ivx.models.spec import ModelSpec

_ATTENTION = {
    "m2la": (
        "latent attention (M2LA): {rank} + {head} cached values per token and layer",
        "AutoModelForCausalLM",
        "folder, trust_remote_code=True",
        "`trust_remote_code=True` executes `modeling_internvideo3.py` from this folder. It is"
        " short; read it first.",
    ),
    "m2la_exact": (
        "latent attention that keeps its QK-norm (m2la_exact, a variant of ivx): {rank} + {head}"
        " cached values per token and layer",
        "AutoModelForCausalLM",
        "folder, trust_remote_code=True",
        "`trust_remote_code=True` executes `modeling_internvideo3.py` from this folder. It is"
        " short; read it first.",
    ),
    "gqa": (
        "grouped attention with QK-norm, as in Qwen3-VL",
        "AutoModelForImageTextToText",
        "folder",
        "This folder contains no code to execute.",
    ),
}

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags:
- video-understanding
- {model_type}
---

# {title}

A video language model: a vision tower of {vision_depth} blocks, a decoder of {text_depth} layers
with {attention}. Exported by ivx.

| | |
| --- | --- |
{facts}

## Use

transformers 5 needs `torch`, the `torchvision` that belongs to it, and `pillow`; for video files
also the `torchcodec` that belongs to it, and the shared libraries of FFmpeg. Run this from the
folder above this one:

```python
from transformers import {auto_class}, AutoProcessor

folder = {title!r}
model = {auto_class}.from_pretrained({arguments})
processor = AutoProcessor.from_pretrained({arguments})
messages = [
    {{
        "role": "user",
        "content": [
            {{"type": "video", "video": "clip.mp4"}},
            {{"type": "text", "text": "What happens?"}},
        ],
    }}
]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
answer = model.generate(**inputs, max_new_tokens=64)[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])
```

{note}
"""


def render(title: str, spec: ModelSpec, facts: Mapping[str, object]) -> str:
    """The model card.

    Args:
      title: heading.
      spec: sizes of the model.
      facts: rows of the table, in order.
    """
    attention, auto_class, arguments, note = _ATTENTION[spec.text.attention]
    return _CARD.format(
        title=title,
        model_type="qwen3_vl" if spec.text.attention == "gqa" else "internvideo3",
        vision_depth=spec.vision.depth,
        text_depth=spec.text.depth,
        attention=attention.format(rank=spec.text.kv_rank, head=spec.text.head_dim),
        facts="\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items()),
        auto_class=auto_class,
        arguments=arguments,
        note=note,
    )


def _cell(value: object) -> str:
    """A table cell, on one line."""
    return " ".join(str(value).split()).replace("|", "\\|")
