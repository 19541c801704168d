"""What is made again in the backward pass, by name."""

from collections.abc import Callable

import jax

# none: everything is kept. layer: only the input of each layer is kept.
POLICIES: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda layer: layer,
    "layer": jax.checkpoint,
}
