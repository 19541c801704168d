"""Metrics: confidence intervals, temporal IoU with recall at thresholds, tool-call arguments."""

import math
from collections.abc import Sequence

from ivx.text import tool_calls

THRESHOLDS = (0.3, 0.5, 0.7)


def temporal_iou(a: tuple[float, float] | None, b: tuple[float, float]) -> float:
    """Intersection over union of two spans in seconds; 0 if `a` is None."""
    if a is None:
        return 0.0
    union = max(a[1], b[1]) - min(a[0], b[0])
    if union <= 0:
        return 1.0 if a == b else 0.0
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / union


def span_scores(ious: Sequence[float]) -> dict[str, float]:
    """mIoU, and the fraction of answers that reach each IoU threshold."""
    recalls = {
        f"R@{threshold}": sum(iou >= threshold for iou in ious) / len(ious)
        for threshold in THRESHOLDS
    }
    return {"mIoU": sum(ious) / len(ious)} | recalls


def interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson 95% interval of a proportion `share` observed in `count` trials."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        / (1 + z * z / count)
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """95% interval of a mean of scores in [0, 1] by the normal approximation.

    One value tells nothing about the spread, so its interval is the whole range.
    """
    count = len(values)
    if count < 2:
        return 0.0, 1.0
    mean = sum(values) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = z * spread / math.sqrt(count)
    return max(0.0, mean - half), min(1.0, mean + half)


def call_share(call: tool_calls.Call | None, expected: tool_calls.Call) -> float:
    """Fraction of correct arguments; extra ones count as wrong; 0 for another tool or no call."""
    if call is None or call.name != expected.name:
        return 0.0
    names = call.arguments.keys() | expected.arguments.keys()
    common = call.arguments.keys() & expected.arguments.keys()
    correct = sum(call.arguments[name] == expected.arguments[name] for name in common)
    return correct / len(names) if names else 1.0
