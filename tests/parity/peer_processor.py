"""What the processor of Qwen3-VL in transformers makes of the tables of videos and images.

Its pictures are tensors without content, so that an hour of video costs nothing.

Where it samples an odd number of frames, it fits their size to the budget first and repeats the
last frame then; InternVideo3 repeats first, and so do we: a video never exceeds its budget. There
it is given the frames with the last one repeated. So is a video of one frame, which 4.57 refuses;
that refuses sides below 32 pixels too, and is given them enlarged as 5 enlarges them.
"""

import dataclasses
import functools
import pathlib
import tempfile

import numpy as np

from data_pipelines.video.info import VideoInfo
from data_pipelines.video.resize import PixelBudget
from ivx.hf import config, json_file, processor, text_files, torchvision_shim
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
    """Each of the pictures resized: uint8 [height, width, 3] by its number.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
    """
    torchvision_shim.declare()
    import torch
    from transformers.image_utils import PILImageResampling, SizeDict

    theirs, resized = load(processor.FrameRules()).video_processor, {}
    for number, (_, (height, width)) in enumerate(pictures.SIZES):
        video = torch.tensor(pictures.picture(number)).permute(2, 0, 1)[None]
        size = SizeDict(height=height, width=width)
        # Of its base class: in 5 its own works the size out as well.
        [frame] = super(type(theirs), theirs).resize(video, size, PILImageResampling.BICUBIC)
        resized[str(number)] = frame.permute(1, 2, 0).numpy()
    return resized


def image_rows() -> list[dict]:
    """A row for each conversation of the table of images.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
      PeerMissingError: there is no template of Qwen.
    """
    return [_image_row(case) for case in images.table()]


def image_pixels() -> dict[str, np.ndarray]:
    """Each of the image files as they read, resize and lay it out: uint8 [p, 1536] by its name.

    Raises:
      ModuleNotFoundError: torchvision is not installed.
    """
    theirs, found = load(_rules(images.TINY)).image_processor, {}
    from transformers.image_utils import load_image

    with tempfile.TemporaryDirectory() as made:
        for path in images.write(pathlib.Path(made)):
            rows = theirs(images=[load_image(str(path))], return_tensors="pt")["pixel_values"]
            found[path.name] = ((rows.numpy() + 1) * 127.5).round().astype(np.uint8)
    return found


def _image_row(case: images.Case) -> dict:
    import torch

    theirs = load(_rules(case.budget))
    text = theirs.apply_chat_template(
        case.items,
        chat_template=peers.file_of("trl", "chat_templates", "qwen3_vl.jinja").read_text(),
        add_generation_prompt=True,
        tokenize=False,
    )
    # From 5.10 on their processor would leave the outer pair of a video where it is.
    pair = (special_tokens.VISION_START, special_tokens.VISION_END)
    text = text.replace(special_tokens.VIDEO_PAD.join(pair), special_tokens.VIDEO_PAD)
    given = {}
    if case.images:
        given["images"] = [
            torch.empty(3, height, width, dtype=torch.uint8, device="meta")
            for width, height in case.images
        ]
    if case.videos:
        given["videos"] = [_empty(info.num_frames, info.height, info.width) for info in case.videos]
        given["video_metadata"] = [_facts(info) for info in case.videos]
    found = theirs(text=[text], **given)
    tokens = np.asarray(found["input_ids"][0])
    grids = [np.asarray(found.get(f"{kind}_grid_thw", [])).tolist() for kind in ("image", "video")]
    return images.row(*grids, tokens, _positions(tokens, *grids))


def _rules(budget: PixelBudget) -> processor.FrameRules:
    """Qwen3-VL's own, but for the images."""
    return dataclasses.replace(
        processor.FrameRules(),
        image_min_pixels=budget.min_pixels,
        image_max_pixels=budget.max_pixels,
    )


def _facts(info: VideoInfo) -> dict:
    count = info.num_frames
    return {"total_num_frames": count, "fps": info.rate, "duration": count / info.rate}


def _empty(count: int, height: int, width: int):
    import torch

    return torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta")


def _row(case: videos.Case) -> dict:
    theirs = load(case.rules)
    info, count, facts = case.info, case.info.num_frames, _facts(case.info)
    video = _empty(count, *_enlarged(info))
    options = {}
    if len(_sampled(theirs, facts)) % 2:
        padded = [*_sampled(theirs, facts), count - 1]
        video, options = video[padded], {"do_sample_frames": False}
        facts["frames_indices"] = padded
    found = theirs(text=[_PROMPT], videos=[video], video_metadata=[facts], **options)
    tokens, [grid] = np.asarray(found["input_ids"][0]), found["video_grid_thw"].tolist()
    indices = facts.get("frames_indices", _sampled(theirs, facts))
    times = theirs._calculate_timestamps(list(indices), info.rate, 2)
    return videos.row(indices, times, grid, tokens, _positions(tokens, [], [grid]))


def _sampled(theirs, facts: dict) -> list[int]:
    from transformers.video_utils import VideoMetadata

    return theirs.video_processor.sample_frames(VideoMetadata(**facts)).tolist()


def _enlarged(info: VideoInfo) -> tuple[int, int]:
    """Height and width with which the processor is content."""
    import transformers

    scale = max(1.0, 32 / min(info.height, info.width))
    if int(transformers.__version__.split(".")[0]) > 4:
        scale = 1.0
    return int(info.height * scale), int(info.width * scale)


@functools.cache
def load(rules: processor.FrameRules):
    """Their processor, of the files that an exported folder has."""
    torchvision_shim.declare()
    import transformers

    words = tokenizer.load("compact")
    files = processor.processor_files(rules)
    files["tokenizer_config.json"] = text_files.tokenizer_config(words)
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        for name, content in files.items():
            json_file.write(folder / name, content)
        (folder / "tokenizer.json").write_bytes(compact_tokenizer.PATH.read_bytes())
        return transformers.Qwen3VLProcessor.from_pretrained(folder)


@functools.cache
def _model():
    """A model of theirs without weights; it computes positions."""
    import torch
    import transformers

    settings = config.write_config(spec.tiny("gqa"), tokenizer.load("compact"), "float32")
    with torch.device("meta"):
        return transformers.Qwen3VLModel(transformers.Qwen3VLConfig(**settings))


def _positions(
    tokens: np.ndarray, image_grids: list[list[int]], video_grids: list[list[int]]
) -> np.ndarray:
    """[3, T] of a prompt with images and videos."""
    import torch
    import transformers

    ids = torch.tensor(tokens[None])
    given = {"attention_mask": torch.ones_like(ids)}
    for name, grids in (("image_grid_thw", image_grids), ("video_grid_thw", video_grids)):
        given[name] = torch.tensor(grids) if grids else None
    if int(transformers.__version__.split(".")[0]) > 4:
        words = tokenizer.load("compact")
        is_image, is_video = ids == words.image_pad, ids == words.video_pad
        given["mm_token_type_ids"] = is_image.long() + 2 * is_video.long()
    return _model().get_rope_index(ids, **given)[0][:, 0].numpy()
