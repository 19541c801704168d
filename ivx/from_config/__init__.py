"""Builds mesh, model, data, optimizer and stage from a config; nothing else reads configs."""

from ivx.from_config import (
    changed_length,
    conversion,
    data,
    export,
    hf_folder,
    inference,
    memory_forecast,
    mesh,
    model,
    programs,
    recording,
    stage,
    step_load,
    stored_model,
    training,
)

__all__ = [
    "changed_length",
    "conversion",
    "data",
    "export",
    "hf_folder",
    "inference",
    "memory_forecast",
    "mesh",
    "model",
    "programs",
    "recording",
    "stage",
    "step_load",
    "stored_model",
    "training",
]
