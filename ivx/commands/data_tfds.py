"""`ivx data tfds`: builds a TFDS data set from the synthetic set or from InternVideo3's rows."""

import pathlib

from ivx.errors import UserError

BUILDERS = ("synthetic", "internvideo3")


def build(name: str, source: str, out: str, media_root: str, fields: list[str]) -> dict:
    """Builds a data set and prints the mixture entry that reads it.

    Args:
      name: a name of `BUILDERS`.
      source: folder of the synthetic set, or file of rows.
      out: data_dir of TFDS; data sets that are built already are kept.
      media_root: folder of InternVideo3's videos.
      fields: "ours=theirs" for each column of InternVideo3.

    Raises:
      UserError: an argument is missing or wrong, the source cannot be used, or TFDS is missing.
    """
    from data_pipelines import tfds_records
    from data_pipelines.annotation_error import AnnotationError

    if name not in BUILDERS:
        raise UserError(f"there is no builder {name!r}; --builder is {' or '.join(BUILDERS)}")
    if not source or (name == "internvideo3" and not media_root):
        raise UserError("give --source, and --media_root with --builder=internvideo3")
    try:
        tfds_records.tfds_package()
        if name == "synthetic":
            return _synthetic(pathlib.Path(source), pathlib.Path(out))
        return _internvideo3(source, media_root, _columns(fields), pathlib.Path(out))
    except AnnotationError as error:
        raise UserError(str(error)) from error


def _columns(fields: list[str]) -> dict[str, str]:
    pairs = [field.partition("=") for field in fields]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise UserError(f"--fields={','.join(fields)}: expected video=...,question=...,answer=...")
    return {ours: theirs for ours, _, theirs in pairs}


def _synthetic(source: pathlib.Path, out: pathlib.Path) -> dict:
    from data_pipelines.tfds_builders import synthetic

    return _report("ivx_synthetic", synthetic.build(source, out), out)


def _internvideo3(source: str, media_root: str, fields: dict[str, str], out: pathlib.Path) -> dict:
    from data_pipelines.tfds_builders import internvideo3

    columns = internvideo3.Columns(
        name=pathlib.Path(source).stem.replace("-", "_"),
        annotation=source,
        media_root=media_root,
        fields=fields,
    )
    splits, left = internvideo3.build(columns, out)
    left_out = f"; left out: {left.missing:,} without video, {left.unusable:,} unusable"
    report = _report(f"ivx_internvideo3/{columns.name}", splits, out, media_root, left_out)
    return report | {"missing": left.missing, "unusable": left.unusable}


def _report(
    name: str, splits: dict[str, int], out: pathlib.Path, root: str = "", left_out: str = ""
) -> dict:
    """Prints the size of a data set and a mixture entry for its first split."""
    counts = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    print(f"built {name}: {counts} in {out}{left_out}")
    entry = {"annotation": str(out), "tfds": name, "split": next(iter(splits))}
    entry |= {"media_root": root} if root else {}
    print(f"mixture entry: {entry}".replace("'", '"'))
    return {"out": str(out), "tfds": name, "splits": splits}
