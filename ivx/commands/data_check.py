"""`ivx data check`: reads a mixture from end to end, decoding nothing, and says what is wrong.

What was prepared is compared with its checksums first; where it differs, nothing else is looked at.
"""

import collections
import pathlib

from ivx.errors import UserError


def check(path: str, names: tuple[str, ...], config, threads: int = 2) -> dict:
    """Counts, lengths and faults of the data sets of a mixture, printed and returned.

    Args:
      path: of the mixture file.
      names: of data sets; none means all.
      config: says how samples would be laid out, and how long a pack is.
      threads: that read what was prepared.

    Raises:
      UserError: the mixture, or a file of it as a whole, cannot be read.
    """
    import tqdm

    from data_pipelines import sources
    from data_pipelines.sources import census
    from ivx import build

    rule, limit = build.layout_rule(config), config.data.pack_tokens
    found = []
    try:
        names = names or tuple(sources.data_set_names(path))
        faults = _changed(path, names, threads)
        for data_set in () if faults else sources.read_mixture(path, names):
            with tqdm.tqdm(desc=data_set.name, unit=" samples", mininterval=0.5) as bar:
                found.append(census.take(data_set, rule, bar.update))
    except (sources.AnnotationError, ValueError) as error:
        raise UserError(str(error)) from error
    faults += [fault for one in found for fault in one.faults]
    if found:
        print(_table(found, limit))
    print(_listed(faults))
    return {
        "ok": not faults,
        "mixture": str(pathlib.Path(path)),
        "pack_tokens": limit,
        "data_sets": {
            one.name: {
                "samples": one.samples,
                "an_epoch": one.an_epoch,
                "videos": one.videos,
                "images": one.images,
                "tokens": one.spread(one.tokens),
                "visual_tokens": one.spread(one.visual),
                "trained_tokens": one.spread(one.trained),
                "too_long": int((one.tokens > limit).sum()),
                "faults": len(one.faults),
            }
            for one in found
        },
        "faults": [
            {"where": fault.where, "cause": fault.cause, "sentence": fault.sentence}
            for fault in faults
        ],
    }


def _changed(path: str, names: tuple[str, ...], threads: int) -> list:
    """A fault for each file of what was prepared that is not as it was written."""
    import tqdm

    from data_pipelines import sources
    from data_pipelines.prepared import checksums

    faults = []
    for folder, own in sources.prepared_folders(path, names).items():
        bar = tqdm.tqdm(desc=f"checksums of {folder}", unit="B", unit_scale=True, mininterval=0.5)
        with bar:
            faults += checksums.faults(folder, own, threads, bar.update)
    return faults


def _table(found: list, limit: int) -> str:
    head = (
        f"{'data set':<24}{'samples':>9}{'an epoch':>10}{'videos':>8}{'images':>8}"
        f"{'tokens min':>12}{'median':>8}{'p95':>8}{'max':>9}{'visual':>8}{'trained':>9}"
        f"{'too long':>10}{'faults':>8}"
    )
    lines = [head]
    for one in found:
        tokens = one.spread(one.tokens)
        whole = max(tokens["sum"], 1)
        lines.append(
            f"{one.name:<24}{one.samples:>9,}{one.an_epoch:>10,}{one.videos:>8,}{one.images:>8,}"
            f"{tokens['min']:>12,}{tokens['median']:>8,}{tokens['p95']:>8,}{tokens['max']:>9,}"
            f"{one.visual.sum() / whole:>8.0%}{one.trained.sum() / whole:>9.1%}"
            f"{int((one.tokens > limit).sum()):>10,}{len(one.faults):>8,}"
        )
    return "\n".join([*lines, f"too long: more tokens than a pack has, {limit:,}"])


def _listed(faults: list) -> str:
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
