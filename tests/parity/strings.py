"""Random strings in many scripts, to compare tokenizers."""

import random

from ivx.text import special_tokens

COUNT = 2400

# First and last code point of Unicode blocks: scripts, marks and symbols.
_BLOCKS = (
    (0x20, 0x7E),
    (0xA0, 0x17F),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x531, 0x58F),
    (0x590, 0x5FF),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0x980, 0x9FF),
    (0xB80, 0xBFF),
    (0xE00, 0xE5B),
    (0xF00, 0xFDA),
    (0x10A0, 0x10FF),
    (0x1100, 0x11FF),
    (0x1200, 0x137F),
    (0x1780, 0x17F9),
    (0x1E00, 0x1EFF),
    (0x2000, 0x206F),
    (0x2150, 0x22FF),
    (0x2500, 0x27BF),
    (0x3000, 0x30FF),
    (0x3400, 0x3500),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFF00, 0xFFEF),
    (0x10330, 0x1034A),
    (0x1D400, 0x1D7FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x20100),
)
_WORD_LIST = (
    "the video shows a red circle moving left then right nothing is seen I'm can't We'LL they'd"
    " naïve façade Straße œuvre Übung год видео красный круг φως κύκλος שלום וידאו مرحبا فيديو"
    " 视频 里 发生 了 什么 红色 圆形 動画 何が 起こり ますか ビデオ 동영상 에서 무엇이 वीडियो में"
    " क्या วิดีโอ แสดง ປະເທດ አማርኛ ქართული հայերեն"
)
_WORDS = _WORD_LIST.split()
_CODE = (
    "def f(x: int) -> str:\n    return f'{x:>5}'\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; }",
    "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x%';",
    '{"name": "inspect", "arguments": {"start": 8.0, "end": 16.25}}',
    "<div class='a'>&nbsp;</div>\r\n\t<!-- no -->",
    '$ ls -la | grep \\.py$ && echo "done"',
    "\\frac{\\partial L}{\\partial \\theta} = 0",
    "https://example.org/a?b=c&d=%20#e",
    "snake_case camelCase SCREAMING_CASE kebab-case",
)
_SPACES = (
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    " \n ",
    "\r\n",
    "   \n\n\t ",
    "\u00a0",
    "\u3000",
    "\u2009",
)


def generate(count: int = COUNT, seed: int = 0) -> list[str]:
    """Deterministic strings for a seed, on every machine."""
    rng = random.Random(seed)
    kinds = (_one_script, _mixed_scripts, _sentence, _code, _numbers, _spaced, _tagged, _decomposed)
    return [kinds[number % len(kinds)](rng) for number in range(count)]


def _characters(rng: random.Random, block: tuple[int, int], most: int) -> str:
    return "".join(chr(rng.randint(*block)) for _ in range(rng.randint(1, most)))


def _one_script(rng: random.Random) -> str:
    block = rng.choice(_BLOCKS)
    return " ".join(_characters(rng, block, 12) for _ in range(rng.randint(1, 4)))


def _mixed_scripts(rng: random.Random) -> str:
    return "".join(_characters(rng, rng.choice(_BLOCKS), 4) for _ in range(rng.randint(2, 8)))


def _sentence(rng: random.Random) -> str:
    words = [rng.choice(_WORDS) for _ in range(rng.randint(1, 20))]
    return rng.choice((" ", " ", "", ", ", "-", "'")).join(words) + rng.choice(
        (".", "?!", "。", "")
    )


def _code(rng: random.Random) -> str:
    lines = [" " * rng.randint(0, 9) + rng.choice(_CODE) for _ in range(rng.randint(1, 3))]
    return rng.choice(("\n", "\n\n", "\t")).join(lines)


def _numbers(rng: random.Random) -> str:
    forms = (
        str(rng.randint(0, 10 ** rng.randint(1, 20))),
        f"{rng.uniform(-1000, 1000):.{rng.randint(0, 8)}f}",
        f"<{rng.uniform(0, 9000):.1f} seconds>",
        f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
        f"{rng.randint(1, 999):,}e-{rng.randint(0, 30)}",
        "١٢٣ ४५६ ７８９ ½ ²³ Ⅷ",
    )
    return rng.choice(_SPACES).join(rng.choice(forms) for _ in range(rng.randint(1, 5)))


def _spaced(rng: random.Random) -> str:
    parts = [rng.choice(_SPACES) * rng.randint(1, 4) + rng.choice(_WORDS) for _ in range(4)]
    return "".join(parts) + rng.choice(_SPACES)


def _tagged(rng: random.Random) -> str:
    parts = [rng.choice(special_tokens.ALL) + rng.choice((*_WORDS, "\n", "\n\n")) for _ in range(3)]
    return rng.choice(("", " ", "user\n")) + "".join(parts)


def _decomposed(rng: random.Random) -> str:
    """Letters followed by combining marks; NFC composes those for which a letter exists."""
    marks = [chr(rng.randint(0x300, 0x345)) for _ in range(3)]
    letters = [rng.choice("aeiounAEOUcszКИ가") + mark for mark in marks]
    return rng.choice(_WORDS) + "".join(letters) + "\u1112\u1161\u11ab" + rng.choice(("", "ﬁ", "Å"))
