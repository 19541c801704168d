"""A small model for tests."""

import dataclasses

from ivx.models import spec


def small_spec(attention: str = "m2la") -> spec.ModelSpec:
    """Three narrow decoder layers and vision blocks; compiles in seconds."""
    tiny = spec.tiny(attention)
    return dataclasses.replace(
        tiny,
        vision=dataclasses.replace(tiny.vision, depth=3, width=32, heads=2, mlp=48, taps=(0, 2)),
        text=dataclasses.replace(
            tiny.text,
            depth=3,
            width=48,
            heads=4,
            head_dim=16,
            kv_heads=2,
            kv_rank=24,
            mlp=64,
            mrope_sections=(4, 2, 2),
        ),
    )
