"""The most useful metrics of a run on one line, behind its progress bar."""

from collections.abc import Mapping

import tqdm

# Metrics and their formats, most important first: a narrow terminal cuts off the end.
_SHOWN = {
    "loss/total": lambda loss: f"loss {loss:.4f}",
    "grad/norm": lambda norm: f"grad {norm:.3g}",
    "tokens/sec": lambda rate: f"{tqdm.tqdm.format_sizeof(rate)} tok/s",
    "frames/sec": lambda rate: f"{tqdm.tqdm.format_sizeof(rate)} frames/s",
    "mfu": lambda share: f"MFU {share:.0%}",
    "goodput": lambda share: f"goodput {share:.0%}",
    "data/wait_ms": lambda wait: f"wait {wait:,.0f} ms",
    "memory/device_gib": lambda used: f"device {used:.1f} GiB",
    "memory/host_gib": lambda used: f"host {used:.1f} GiB",
}


def line(metrics: Mapping[str, float]) -> str:
    """The metrics that are shown.

    Args:
      metrics: name -> value, as written to metrics.jsonl; absent names are left out.
    """
    return ", ".join(form(metrics[name]) for name, form in _SHOWN.items() if name in metrics)
