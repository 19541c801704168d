"""`ivx data check`: reads all annotations of a mixture, decodes no media, and lists the faults.

Prepared data sets are compared with their checksums first. If these differ, the check stops there.
"""

import collections
import pathlib
from typing import Any

import ml_collections

from ivx.errors import UserError


def check(
    path: str, names: tuple[str, ...], config: ml_collections.ConfigDict, threads: int = 2
) -> dict:
    """Prints and returns counts, lengths and faults of the data sets of a mixture.

    Args:
      path: the mixture file.
      names: data sets to check; none means all.
      config: gives the layout of samples and the length of a pack.
      threads: threads that read prepared data.

    Raises:
      UserError: the mixture, or one of its files as a whole, cannot be read.
    """
    import tqdm

    from data_pipelines import sources
    from data_pipelines.sources import statistics
    from ivx import from_config

    rule, shape = from_config.data.layout_rule(config), from_config.data.pack_shape(config)
    summaries = []
    try:
        names = names or tuple(sources.data_set_names(path))
        faults = _changed_files(path, names, threads)
        for data_set in () if faults else sources.read_mixture(path, names):
            with tqdm.tqdm(desc=data_set.name, unit=" samples", mininterval=0.5) as bar:
                summaries.append(statistics.collect(data_set, rule, bar.update, shape))
    except (sources.AnnotationError, ValueError) as error:
        raise UserError(str(error)) from error
    faults += [fault for summary in summaries for fault in summary.faults]
    if not names:
        raise UserError(f"{path} names no data set; give it an entry for each")
    for summary in summaries:
        if not summary.samples and not summary.faults:
            raise UserError(
                f"{path}: data set {summary.name} has no sample; its annotation is empty, or names"
                " the wrong file"
            )
    if summaries:
        print(_table(summaries))
        if misfits := [one for summary in summaries for one in summary.misfits]:
            print(_misfit_list(misfits))
    print(_fault_list(faults))
    return {
        "ok": not faults,
        "mixture": str(pathlib.Path(path)),
        "pack_tokens": shape.tokens,
        "data_sets": {
            summary.name: {
                "samples": summary.samples,
                "an_epoch": summary.an_epoch,
                "videos": summary.videos,
                "images": summary.images,
                "tokens": summary.spread(summary.tokens),
                "visual_tokens": summary.spread(summary.visual),
                "trained_tokens": summary.spread(summary.trained),
                "too_long": int((summary.tokens > shape.tokens).sum()),
                "left_out": len(summary.misfits),
                "faults": len(summary.faults),
            }
            for summary in summaries
        },
        "faults": [
            {"where": fault.where, "cause": fault.cause, "sentence": fault.sentence}
            for fault in faults
        ],
    }


def _changed_files(path: str, names: tuple[str, ...], threads: int) -> list:
    """A fault for each prepared file that differs from its checksum."""
    import tqdm

    from data_pipelines import sources
    from data_pipelines.prepared import checksums

    faults = []
    for folder, data_sets in sources.prepared_folders(path, names).items():
        bar = tqdm.tqdm(desc=f"checksums of {folder}", unit="B", unit_scale=True, mininterval=0.5)
        with bar:
            faults += checksums.faults(folder, data_sets, threads, bar.update)
    return faults


def _table(summaries: list[Any]) -> str:
    head = (
        f"{'data set':<24}{'samples':>9}{'an epoch':>10}{'videos':>8}{'images':>8}"
        f"{'tokens min':>12}{'median':>8}{'p95':>8}{'max':>9}{'visual':>8}{'trained':>9}"
        f"{'left out':>10}{'faults':>8}"
    )
    lines = [head]
    for data in summaries:
        tokens = data.spread(data.tokens)
        total = max(tokens["sum"], 1)
        lines.append(
            f"{data.name:<24}{data.samples:>9,}{data.an_epoch:>10,}{data.videos:>8,}"
            f"{data.images:>8,}"
            f"{tokens['min']:>12,}{tokens['median']:>8,}{tokens['p95']:>8,}{tokens['max']:>9,}"
            f"{data.visual.sum() / total:>8.0%}{data.trained.sum() / total:>9.1%}"
            f"{len(data.misfits):>10,}{len(data.faults):>8,}"
        )
    return "\n".join(lines)


def _misfit_list(misfits: list[str]) -> str:
    """The samples that training leaves out: no faults, since another config may fit them."""
    return "\n".join(
        [
            f"left out, since they fit into no pack of the config: {len(misfits):,}; lower"
            " data.max_pixels or data.image_max_pixels, or raise data.pack_tokens,"
            " data.pack_patches or data.slice_block",
            *(f"  {sentence}" for sentence in misfits),
        ]
    )


def _fault_list(faults: list[Any]) -> str:
    """All faults, the most frequent cause first."""
    if not faults:
        return "no faults"
    causes = collections.defaultdict(list)
    for fault in faults:
        causes[fault.cause].append(fault.sentence)
    lines = []
    for cause, sentences in sorted(causes.items(), key=lambda pair: -len(pair[1])):
        lines.append(f"{cause}: {len(sentences):,}")
        lines += [f"  {sentence}" for sentence in sentences]
    return "\n".join(lines)
