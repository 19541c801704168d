"""Python environments that contain only links to some packages and their requirements."""

import importlib.metadata
import pathlib
import venv


def make(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Makes an environment of these distributions, and returns its interpreter."""
    venv.create(folder, symlinks=True)
    add(folder, *names)
    return folder / "bin" / "python"


def add(folder: pathlib.Path, *names: str) -> None:
    """Adds distributions, those that are installed, to an environment."""
    for name in _required(*names):
        distribution = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site(folder) / part).exists():
                (site(folder) / part).symlink_to(distribution.locate_file(part))


def site(folder: pathlib.Path) -> pathlib.Path:
    """Where an environment keeps its packages."""
    [path] = folder.glob("lib/python*/site-packages")
    return path


def _required(*names: str) -> set[str]:
    """These distributions and their requirements."""
    from packaging import requirements

    distributions, pending = set(), list(names)
    while pending:
        name = pending.pop()
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # its marker does not apply here
        if name not in distributions:
            distributions.add(name)
            parsed = [requirements.Requirement(line) for line in requires]
            pending += [r.name for r in parsed if not r.marker or r.marker.evaluate({"extra": ""})]
    return distributions
