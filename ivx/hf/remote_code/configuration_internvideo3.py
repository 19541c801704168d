"""Configuration of InternVideo3: that of Qwen3-VL with another model type.

The sizes of the latent attention are attributes of `text_config`.
"""

from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig


class InternVideo3Config(Qwen3VLConfig):
    """Qwen3-VL with latent attention in its text layers."""

    model_type = "internvideo3"
