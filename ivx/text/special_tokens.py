"""The 26 added tokens of the Qwen3 vocabulary, in the order of their ids.

In the released vocabulary the first has id 151643; in the compact tokenizer they follow its pieces.
Code looks them up by content, never by id.
"""

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"

# Omitted from decoded text if special tokens are skipped.
HIDDEN = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    VIDEO_PAD,
)
# Kept in decoded text, from which users parse tool calls and thoughts.
VISIBLE = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
ALL = HIDDEN + VISIBLE
# Structure of an assistant's turn or of a tool result; harmless elsewhere.
MARKUP = tuple(token for token in VISIBLE if not token.startswith("<|"))
