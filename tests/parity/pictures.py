"""Pictures with edges, gradients and noise, to compare resizing."""

import numpy as np

# (height, width) before and after: smaller, larger, stretched, almost unchanged.
SIZES = (
    ((97, 150), (64, 96)),
    ((200, 333), (32, 64)),
    ((40, 33), (64, 64)),
    ((480, 640), (64, 96)),
    ((65, 63), (64, 64)),
    ((32, 500), (32, 160)),
)


def picture(number: int) -> np.ndarray:
    """uint8 [h, w, 3], before resizing."""
    (height, width), _ = SIZES[number]
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    ramp = 255 * (y / height + x / width) / 2
    edges = 255.0 * ((y // 9 + x // 7) % 2)
    noise = rng.integers(0, 256, (height, width))
    return np.stack([ramp, edges, noise], -1).astype(np.uint8)
