"""Builds mesh, model, data, optimizer and stage from a config; nothing else reads configs."""

from ivx.from_config import (
    conversion,
    data,
    export,
    hf_folder,
    inference,
    mesh,
    model,
    programs,
    stage,
    step_load,
    stored_model,
    training,
)

__all__ = [
    "conversion",
    "data",
    "export",
    "hf_folder",
    "inference",
    "mesh",
    "model",
    "programs",
    "stage",
    "step_load",
    "stored_model",
    "training",
]
