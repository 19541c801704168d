"""`ivx data tfds`: builds a data set of TFDS from the synthetic set or from InternVideo3's rows."""

import pathlib

from ivx.errors import UserError

BUILDERS = ("synthetic", "internvideo3")


def build(name: str, source: str, out: str, media_root: str, fields: list[str]) -> dict:
    """Builds one, and prints the entry of a mixture that reads it.

    Args:
      name: of the builder.
      source: folder of the synthetic set, or file of rows.
      out: data_dir of TFDS; what is built already is kept.
      media_root: folder of InternVideo3's videos.
      fields: "ours=theirs" for each column of InternVideo3.

    Raises:
      UserError: an argument is missing or wrong, the source is not usable, or TFDS is not there.
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

    splits = synthetic.build(source, out)
    return _told("ivx_synthetic", splits, out, "", {})


def _internvideo3(source: str, media_root: str, fields: dict[str, str], out: pathlib.Path) -> dict:
    from data_pipelines.tfds_builders import internvideo3

    columns = internvideo3.Columns(
        name=pathlib.Path(source).stem.replace("-", "_"),
        annotation=source,
        media_root=media_root,
        fields=fields,
    )
    splits, left = internvideo3.build(columns, out)
    told = f"; {left.missing:,} without video and {left.unusable:,} unusable were left out"
    found = _told(f"ivx_internvideo3/{columns.name}", splits, out, media_root, {"told": told})
    return found | {"missing": left.missing, "unusable": left.unusable}


def _told(name: str, splits: dict[str, int], out: pathlib.Path, root: str, more: dict) -> dict:
    """Says what was built; the split that comes first stands in the example."""
    counts = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    print(f"built {name}: {counts} in {out}{more.get('told', '')}")
    split = next(iter(splits))
    entry = {"annotation": str(out), "tfds": name, "split": split}
    entry |= {"media_root": root} if root else {}
    print(f"an entry of a mixture that reads it: {entry}".replace("'", '"'))
    return {"out": str(out), "tfds": name, "splits": splits}
