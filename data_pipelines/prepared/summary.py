"""Manifests, statistics and checksums of a prepared folder, collected from its shards."""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.layout import LayoutRule
from data_pipelines.prepared import checksums, shards
from data_pipelines.prepared import manifest as manifests


def rule_fields(rule: LayoutRule) -> dict:
    """Every setting that determines sample sizes, as JSON values."""
    fields = {}
    for field in dataclasses.fields(rule):
        if field.name == "limits":
            continue
        value = getattr(rule, field.name)
        fields[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    fields["tokenizer"] = rule.tokenizer.fingerprint
    return json.loads(json.dumps(fields))


def media_summary(stems: Sequence[pathlib.Path]) -> dict:
    """The media section of the top-level manifest."""
    facts = [shards.read_facts(stem) for stem in stems]
    entries = [entry for part in facts for entry in part["media"]]
    stored = [entry for entry in entries if "error" not in entry]
    return {
        "shards": _shard_list(stems, facts),
        "files": len(stored),
        "videos": sum(entry["kind"] == "video" for entry in stored),
        "bytes": sum(entry["bytes"] for entry in stored),
        "unreadable": [entry["error"] for entry in entries if "error" in entry],
    }


def write_manifest(
    folder: pathlib.Path,
    stems: Sequence[pathlib.Path],
    rule: LayoutRule,
    faults: Sequence[str],
) -> dict:
    """Writes and returns the manifest of one data set."""
    facts = [shards.read_facts(stem) for stem in stems]
    columns = [shards.read_columns(stem) for stem in stems]
    manifest = {
        "version": manifests.VERSION,
        "shards": _shard_list(stems, facts),
        "rule": rule_fields(rule),
        "faults": list(faults),
        "left_out": [sentence for part in facts for sentence in part["left_out"]],
        "statistics": statistics(columns)
        | {"video_hours": sum(part["video_seconds"] for part in facts) / 3600},
    }
    shards.write_json(folder / manifests.FILE, manifest)
    return manifest


def write_checksums(out: pathlib.Path, manifest: dict, mixture: dict) -> None:
    """Writes SHA256SUMS and then data.json, which completes the folder.

    The checksums of shards are those recorded when the shards were written.

    Args:
      out: the prepared folder.
      manifest: the top-level manifest.
      mixture: the content of data.json.
    """
    known = {}
    for name, part in {"media": manifest["media"], **manifest["data_sets"]}.items():
        for shard in part["shards"]:
            stem = shard["file"].removesuffix(shards.RECORDS)
            known[f"{name}/{stem}{shards.RECORDS}"] = shard["sha256"]
            known[f"{name}/{stem}.npz"] = shard["columns_sha256"]
    mixture_text = shards.json_text(mixture)
    known["data.json"] = hashlib.sha256(mixture_text.encode()).hexdigest()
    names = (*manifests.TOP_LEVEL_FILES, *manifests.files(manifest))
    sums = {name: known.get(name) or checksums.sha256(out / name) for name in names}
    shards.write_text(out / checksums.FILE, checksums.to_text(sums))
    shards.write_text(out / "data.json", mixture_text)


def statistics(columns: Sequence[dict[str, np.ndarray]]) -> dict:
    """Token and sample counts over the shards of a data set."""
    tokens = np.concatenate([part["tokens"] for part in columns]).astype(np.int64)
    grids = np.concatenate([part["grids"] for part in columns]).astype(np.int64)
    # Each bin spans twice the range of the one before.
    bins = collections.Counter(int(n).bit_length() for n in tokens)
    return {
        "samples": len(tokens),
        "tokens": int(tokens.sum()),
        "trained_tokens": int(sum(part["trained"].sum() for part in columns)),
        "visual_tokens": int(grids.prod(1).sum() // 4),
        "slices": int(grids[:, 2].sum()),
        "tokens_quantiles": {
            str(q): int(np.quantile(tokens, q)) if len(tokens) else 0 for q in (0.1, 0.5, 0.9, 0.99)
        },
        "longest": int(tokens.max(initial=0)),
        "lengths_below": {str(2**bits): bins[bits] for bits in sorted(bins)},
    }


def _shard_list(stems: Sequence[pathlib.Path], facts: Sequence[dict]) -> list[dict]:
    keys = ("records", "bytes", "sha256", "columns_sha256")
    return [
        {"file": stem.name + shards.RECORDS} | {key: part[key] for key in keys}
        for stem, part in zip(stems, facts, strict=True)
    ]
