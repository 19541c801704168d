"""Builds the compact tokenizer that the `tiny` preset uses: `python -m ivx.text.compact_tokenizer`.

A byte-level BPE with Qwen's pre-tokenizer (one token per digit) and all of its special tokens. It
encodes any text, and templates, masks and vision tokens behave as with the released vocabulary. Its
merges are learned from the sentences of the synthetic data and a little chat English. The result is
committed as compact_tokenizer.json; building it again gives the same bytes.
"""

import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from ivx.text import byte_level

PATH = pathlib.Path(__file__).with_name("compact_tokenizer.json")
VOCABULARY = 742

_COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "black", "orange", "grey")
_SHAPES = ("circle", "square", "triangle", "shape", "video", "person", "car", "dog", "word")
_SENTENCES = (
    "user\nsystem\nassistant\n",
    "You are a helpful assistant that answers questions about videos and images.",
    "{c}\n{s}\nleft\nright\nup\ndown\nyes\nno",
    "What colour is the {s}?\nHow many {c} {s}s are there?\nWhich way does the {c} {s} move?",
    "Which colour is seen first?\nWhich colour is seen second?\nWhich colour is seen last?",
    "When is the {c} {s} visible? 1.0 to 2.0 seconds",
    "What appears once in the video?\nDescribe the video in one sentence.",
    (
        "A {c} {s} moves left, then a {c} {s} moves right.\n"
        "A {c} {s} moves up, then a {c} {s} moves down."
    ),
    "{c}(A)\n{c}(B)\n{s}(C)\n{c}(D)\nAnswer with one of these.",
    "A. {c}\nB. {c}\nC. {c}\nD. {c}\nAnswer with the option letter only.",
    "A. {c} {s}\nB. {c} {s}\nA. left\nB. right\nC. up\nD. down",
    (
        "What is the {s} doing? Who is in the {s}? Why does it happen, and where?"
        " It is not that they can be seen."
    ),
    (
        "Select the best answer from the options based on the video."
        " The event happens in 0 - 1 seconds."
    ),
    "Is anything seen?\nWhat is seen in the clip? nothing\na {c} {s}",
    "<think>The shape is seen from 1.0 to 2.0 seconds.</think>1.0 to 2.0 seconds",
    (
        "<think>The colours are {c}, {c}, {c}. The second is {c}."
        " It is at the letter (A).</think>{c}(A)"
    ),
    "<think>It moves left, so the answer is left.</think>left",
    "<think>There are 3 {s}s in the video. Nothing is found yet, look again.</think>",
    "# Tools\n\nYou may call one or more functions to assist with the user query.",
    '<tool_call>\n{"name": "inspect", "arguments": {"start": 0.0, "end": 1.0}}\n</tool_call>',
    '<tool_call>\n{"name": "search_video", "arguments": {"query": "{c} {s}"}}\n</tool_call>',
    '{"name": "finish", "arguments": {"answer": "{c} {s}", "evidence": ["e1", "e2"]}}',
    '<tool_response>\n{"id": "e1", "start": 0.0, "end": 1.0, "label": "{c} {s}"}\n</tool_response>',
    '{"type": "function", "function": {"name": "inspect", "description": "", "parameters": {}}}',
    '{"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}',
    '"type": "number", "items": {"type": "array"}, "enum": [], "error": "no such span"',
)


def build() -> tokenizers.Tokenizer:
    """The tokenizer: learns the merges and adds the special tokens."""
    tokenizer = byte_level.tokenizer(models.BPE())
    corpus = [
        text.replace("{c}", c).replace("{s}", s)
        for text in _SENTENCES
        for c in _COLOURS
        for s in _SHAPES
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(byte_level.added_tokens())
    return tokenizer


if __name__ == "__main__":
    build().save(str(PATH), pretty=False)
