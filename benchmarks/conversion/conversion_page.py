"""The tables of `python -m benchmarks conversion`, as Markdown."""

from collections.abc import Callable, Mapping, Sequence

_STEPS = {"qk_norm": "norm", "rope": "rope", "latent": "latent", "matched": "matched"}


def line(row: dict) -> str:
    """A row as one line of progress."""
    text = (
        f"{row['method']:31s} cache {row['share']:6.1%}  KL {row['words']:.5f}"
        f"  loss {row['loss']:.4f}"
    )
    if row.get("accuracy") is not None:
        text += f"  accuracy {row['accuracy']:.1%}"
    return text


def page(rows: Sequence[dict], base: str, tokens: int) -> str:
    """All tables.

    Args:
      rows: of methods and cache sizes, and one of the source.
      base: name of the source model.
      tokens: count of calibration tokens.
    """
    [source] = [row for row in rows if row["method"] == "source"]
    names = list(dict.fromkeys(row["method"] for row in rows if row is not source))
    shares = sorted({row["share"] for row in rows if row is not source}, reverse=True)
    by_key = {(row["method"], row["share"]): row for row in rows}
    head = [f"{share:.1%} of the cache" for share in shares]
    parts = [
        f"Source: `{base}`, loss {source['loss']:.4f}"
        + (f", accuracy {source['accuracy']:.1%}" if source["accuracy"] is not None else "")
        + f"; {tokens:,} calibration tokens.",
        "KL to the source on held-out answers about videos, nats per token:",
        _table(names, head, lambda n, i: _number(by_key.get((n, shares[i])), "words", "{:.5f}")),
        "Held-out loss, nats per token:",
        _table(names, head, lambda n, i: _number(by_key.get((n, shares[i])), "loss", "{:.4f}")),
    ]
    healed = {n: row for (n, _), row in by_key.items() if "steps" in row and n != "source"}
    if healed:
        parts += [
            "At half of the cache, before healing; steps until the loss is within 1% of the"
            " source's:",
            _table(
                list(healed),
                ["accuracy", "steps of healing", "balance", "ranks"],
                lambda n, i: _healed(healed[n])[i],
            ),
            "Relative error of each layer's attention on the inputs of the source, after each"
            " approximation:",
            _layers(healed),
        ]
    return "\n\n".join(parts) + "\n"


def _healed(row: dict) -> list[str]:
    ranks = row["ranks"]
    return [
        "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
        "not reached" if row["steps"] is None else str(row["steps"]),
        "" if row["balance"] is None else f"{row['balance']:g}",
        str(ranks[0]) if len(set(ranks)) == 1 else " ".join(map(str, ranks)),
    ]


def _layers(healed: dict[str, dict]) -> str:
    errors = [
        (name, label, row[f"layers_{step}"])
        for name, row in healed.items()
        for step, label in _STEPS.items()
        if f"layers_{step}" in row
    ]
    depth = len(errors[0][2])
    return _table(
        [f"{name}, {label}" for name, label, _ in errors],
        [f"layer {layer}" for layer in range(depth)],
        lambda name, i: next(f"{e[i]:.4f}" for n, label, e in errors if f"{n}, {label}" == name),
    )


def _number(row: Mapping | None, key: str, template: str) -> str:
    return template.format(row[key]) if row else ""


def _table(names: Sequence[str], head: Sequence[str], cell: Callable[[str, int], str]) -> str:
    lines = [f"| | {' | '.join(head)} |", f"| --- |{' --- |' * len(head)}"]
    lines += [
        f"| {name} | {' | '.join(cell(name, i) for i in range(len(head)))} |" for name in names
    ]
    return "\n".join(lines)
