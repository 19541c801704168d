"""Runs the Qwen3-VL processor of transformers on the tables of videos and images.

Frames are meta tensors without content, so an hour of video costs nothing.

If the processor samples an odd number of frames, it fits their size to the budget first and then
repeats the last frame. InternVideo3 and ivx repeat first, so a video never exceeds its budget. In
this case the processor receives the frames with the last one already repeated. So it does for a
video of one frame, which 4.57 rejects. 4.57 also rejects sides below 32 pixels; it receives them
enlarged as 5 enlarges them.
"""

import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

import numpy as np

from data_pipelines.video.info import VideoInfo
from data_pipelines.video.resize import PixelBudget
from ivx.hf import config, json_file, peer, processor, text_files
from ivx.models import spec
from ivx.text import compact_tokenizer, special_tokens, tokenizer
from tests.parity import images, peers, pictures, videos

QUESTION = "What happens?"
_PROMPT = (
    f"<|im_start|>user\n{special_tokens.VIDEO_PAD}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


def rows() -> list[dict]:
    """A row for each case of the table.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
    """
    return [_row(case) for case in videos.table()]


def pixels() -> dict[str, np.ndarray]:
    """Each picture resized: uint8 [height, width, 3] by index.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
    """
    peer.declare_torchvision_operators()
    import torch
    from transformers.image_utils import PILImageResampling, SizeDict

    theirs, resized = load(processor.FrameRules()).video_processor, {}
    for number, (_, (height, width)) in enumerate(pictures.SIZES):
        video = torch.tensor(pictures.picture(number)).permute(2, 0, 1)[None]
        size = SizeDict(height=height, width=width)
        # The base class method; that of version 5 also computes the size.
        [frame] = super(type(theirs), theirs).resize(video, size, PILImageResampling.BICUBIC)
        resized[str(number)] = frame.permute(1, 2, 0).numpy()
    return resized


def image_rows() -> list[dict]:
    """A row for each conversation of the table of images.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
      PeerMissingError: the Qwen templates are not installed.
    """
    return [_image_row(case) for case in images.table()]


def image_pixels() -> dict[str, np.ndarray]:
    """The patches of each image file from transformers: uint8 [p, 1536] by file name.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
    """
    theirs, patches = load(_rules(images.TINY)).image_processor, {}
    from transformers.image_utils import load_image

    with tempfile.TemporaryDirectory() as temporary:
        for path in images.write(pathlib.Path(temporary)):
            rows = theirs(images=[load_image(str(path))], return_tensors="pt")["pixel_values"]
            patches[path.name] = ((rows.numpy() + 1) * 127.5).round().astype(np.uint8)
    return patches


def _image_row(case: images.Case) -> dict:
    import torch

    theirs = load(_rules(case.budget))
    text = theirs.apply_chat_template(
        case.items,
        chat_template=peers.file_of("trl", "chat_templates", "qwen3_vl.jinja").read_text(),
        add_generation_prompt=True,
        tokenize=False,
    )
    # From 5.10 on, the processor keeps the outer pair of a video.
    pair = (special_tokens.VISION_START, special_tokens.VISION_END)
    text = text.replace(special_tokens.VIDEO_PAD.join(pair), special_tokens.VIDEO_PAD)
    media = {}
    if case.images:
        media["images"] = [
            torch.empty(3, height, width, dtype=torch.uint8, device="meta")
            for width, height in case.images
        ]
    if case.videos:
        media["videos"] = [_empty(info.num_frames, info.height, info.width) for info in case.videos]
        media["video_metadata"] = [_metadata(info) for info in case.videos]
    inputs = theirs(text=[text], **media)
    tokens = np.asarray(inputs["input_ids"][0])
    grids = [np.asarray(inputs.get(f"{kind}_grid_thw", [])).tolist() for kind in ("image", "video")]
    return images.row(*grids, tokens, _positions(tokens, *grids))


def _rules(budget: PixelBudget) -> processor.FrameRules:
    """The rules of Qwen3-VL with another image budget."""
    return dataclasses.replace(
        processor.FrameRules(),
        image_min_pixels=budget.min_pixels,
        image_max_pixels=budget.max_pixels,
    )


def _metadata(info: VideoInfo) -> dict:
    count = info.num_frames
    return {"total_num_frames": count, "fps": info.rate, "duration": count / info.rate}


def _empty(count: int, height: int, width: int) -> Any:
    import torch

    return torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta")


def _row(case: videos.Case) -> dict:
    theirs = load(case.rules)
    info, count, metadata = case.info, case.info.num_frames, _metadata(case.info)
    video = _empty(count, *_enlarged(info))
    options = {}
    if len(_sampled(theirs, metadata)) % 2:
        padded = [*_sampled(theirs, metadata), count - 1]
        video, options = video[padded], {"do_sample_frames": False}
        metadata["frames_indices"] = padded
    inputs = theirs(text=[_PROMPT], videos=[video], video_metadata=[metadata], **options)
    tokens, [grid] = np.asarray(inputs["input_ids"][0]), inputs["video_grid_thw"].tolist()
    indices = metadata.get("frames_indices", _sampled(theirs, metadata))
    times = theirs._calculate_timestamps(list(indices), info.rate, 2)
    return videos.row(indices, times, grid, tokens, _positions(tokens, [], [grid]))


def _sampled(theirs: Any, metadata: dict) -> list[int]:
    from transformers.video_utils import VideoMetadata

    return theirs.video_processor.sample_frames(VideoMetadata(**metadata)).tolist()


def _enlarged(info: VideoInfo) -> tuple[int, int]:
    """Height and width that the processor accepts."""
    import transformers

    scale = max(1.0, 32 / min(info.height, info.width))
    if int(transformers.__version__.split(".")[0]) > 4:
        scale = 1.0
    return int(info.height * scale), int(info.width * scale)


@functools.cache
def load(rules: processor.FrameRules) -> Any:
    """The transformers processor of an exported folder."""
    peer.declare_torchvision_operators()
    import transformers

    words = tokenizer.load("compact")
    files = processor.processor_files(rules)
    files["tokenizer_config.json"] = text_files.tokenizer_config(words)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, content in files.items():
            json_file.write(folder / name, content)
        (folder / "tokenizer.json").write_bytes(compact_tokenizer.PATH.read_bytes())
        return transformers.Qwen3VLProcessor.from_pretrained(folder)


@functools.cache
def _model() -> Any:
    """A transformers model without weights, which computes positions."""
    import torch
    import transformers

    settings = config.write_config(spec.tiny("gqa"), tokenizer.load("compact"), "float32")
    with torch.device("meta"):
        return transformers.Qwen3VLModel(transformers.Qwen3VLConfig(**settings))


def _positions(
    tokens: np.ndarray, image_grids: list[list[int]], video_grids: list[list[int]]
) -> np.ndarray:
    """Positions [3, T] of a prompt with images and videos."""
    import torch
    import transformers

    ids = torch.tensor(tokens[None])
    inputs = {"attention_mask": torch.ones_like(ids)}
    for name, grids in (("image_grid_thw", image_grids), ("video_grid_thw", video_grids)):
        inputs[name] = torch.tensor(grids) if grids else None
    if int(transformers.__version__.split(".")[0]) > 4:
        words = tokenizer.load("compact")
        is_image, is_video = ids == words.image_pad, ids == words.video_pad
        inputs["mm_token_type_ids"] = is_image.long() + 2 * is_video.long()
    return _model().get_rope_index(ids, **inputs)[0][:, 0].numpy()
