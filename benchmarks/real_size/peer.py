"""The same question by transformers, as a process: `python peer.py FOLDER IMAGE TOKENS`."""

import sys
import time

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, image, tokens = sys.argv[1:]
start = time.monotonic()
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
processor = AutoProcessor.from_pretrained(folder)
content = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
text = processor.apply_chat_template(
    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
)
inputs = processor(text=[text], images=[Image.open(image)], return_tensors="pt")
with torch.no_grad():
    answer = model.generate(**inputs, max_new_tokens=int(tokens), do_sample=False)
print(answer.shape, f"{time.monotonic() - start:.1f} s after the imports")
