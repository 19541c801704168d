"""Which of the named sizes a model has."""

import dataclasses

from ivx.errors import UserError
from ivx.models import spec as specs


def preset_of(spec: specs.ModelSpec) -> str:
    """The preset that has these sizes; dtype, remat and the rank of the latent aside.

    Raises:
      UserError: there is none; the nearest is named, with what differs.
    """
    found = _sizes(spec)
    differences = {
        name: [
            f"{key} = {found[key]} instead of {value}"
            for key, value in _sizes(make(spec.text.attention)).items()
            if found[key] != value
        ]
        for name, make in specs.PRESETS.items()
    }
    nearest = min(differences, key=lambda name: len(differences[name]))
    if differences[nearest]:
        raise UserError(
            f"the model has the sizes of no preset ({', '.join(specs.PRESETS)}): it differs from"
            f" {nearest} in {', '.join(differences[nearest])}; bring a model of one of those sizes"
        )
    return nearest


def _sizes(spec: specs.ModelSpec) -> dict:
    """The sizes that matter to its attention, by dotted name."""
    unused = {"kv_rank"} | ({"kv_heads"} if spec.text.attention == "m2la" else set())
    return {
        f"{part}.{field}": value
        for part in ("vision", "text")
        for field, value in dataclasses.asdict(getattr(spec, part)).items()
        if field not in unused
    }
