"""Settings shared by the two stages that train on sampled answers: rl_gspo and opd."""

import ml_collections

from ivx import config as configs


def published(stage: str) -> ml_collections.ConfigDict:
    """The `8b` base: a small constant learning rate, and packs for one long question."""
    config = configs.published(stage)
    config.optim.update(learning_rate=1e-6, floor=1e-6, warmup=0.0, weight_decay=0.0)
    config.data.update(pack_tokens=65536, batch_packs=32)
    return config


def tiny(stage: str) -> ml_collections.ConfigDict:
    """The `tiny` base, with rehearsed agent traces: sampled answers alone unlearn tool calls."""
    config = configs.tiny(stage)
    config.optim.weight_decay = 0.0
    config.data.update(validation=(), pack_tokens=1024, pack_patches=864, batch_packs=2)
    config.stage.update(rehearse=("synthetic_traces",), rehearsal=0.5)
    return config
