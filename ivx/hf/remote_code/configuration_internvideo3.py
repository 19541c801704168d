"""Configuration of InternVideo3: Qwen3-VL's, under a name of its own.

The sizes of the latent attention are plain attributes of `text_config`.
"""

from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig


class InternVideo3Config(Qwen3VLConfig):
    """Qwen3-VL with latent attention in its text layers."""

    model_type = "internvideo3"
