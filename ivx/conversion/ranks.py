"""How wide the latent of each layer is, under a budget for all of them: reverse water-filling.

    layer l keeps its numbers that are worth more than a level theta, the same for all layers

Number i of layer l is worth e_li, the share of that layer's weighted energy that it adds
(`ivx.conversion.compression.spectrum`). Values fall with i, so that the level gives every layer
its first numbers, and no other choice of as many numbers loses less in sum. Layers that are held
as wide as the widest of them have zeros behind theirs, `ivx.hf.ranks`.
"""

from collections.abc import Sequence

import numpy as np

from ivx.errors import UserError


def allot(spectra: Sequence[np.ndarray], mean_rank: int, widest: int) -> tuple[int, ...]:
    """A rank a layer: `mean_rank` in the mean, from 1 to `widest`.

    Args:
      spectra: what each number of each layer adds, the most first.
      mean_rank: the budget.
      widest: no layer may have more.

    Raises:
      UserError: the budget is more than the widest allows.
    """
    if not 1 <= mean_rank <= widest:
        raise UserError(
            f"stage.mean_rank = {mean_rank} must be between 1 and the widest latent,"
            f" model.kv_rank = {widest}"
        )
    worth = []
    for layer, spectrum in enumerate(spectra):
        share = spectrum[:widest] / max(spectrum.sum(), np.finfo(float).tiny)
        # The first number of a layer comes before all others: none is left without.
        share[0] = np.inf
        worth += [(-value, layer) for value in share]
    ranks = np.zeros(len(spectra), int)
    for _, layer in sorted(worth)[: mean_rank * len(spectra)]:
        ranks[layer] += 1
    return tuple(int(rank) for rank in ranks)
