"""What each stage of a recipe is for, in one line: told at its start, and shown on the page."""

# A stage trains or converts the model of the stage before it.
PURPOSE = {
    "base": "import the small stand-in for Qwen3-VL: grouped attention, Hugging Face format",
    "convert": "convert grouped attention to latent attention (M2LA): half the cache",
    "cpt": "continued pretraining: recover what the conversion lost",
    "sft_short": "supervised fine-tuning on short videos: questions, times, tool calls",
    "sft_long": "supervised fine-tuning on long videos and agent traces",
    "rl_gspo": "reinforcement learning with rule-based rewards (GSPO)",
    "teacher": "import the teacher of the distillation",
    "opd": "on-policy distillation: the teacher corrects the student's own answers",
    "agent": "let the agent search long videos, next to a single pass with as many frames",
    "export": "write a Hugging Face folder that transformers loads",
}
