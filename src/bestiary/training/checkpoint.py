"""Checkpoints: the state of training between two steps, written atomically, loaded without running code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bestiary.errors import RunError
from bestiary.files import atomic_path
from bestiary.recipe_sections import AugmentConfig

# These may change: they do not change what an epoch computes.
FREE_ON_RESUME = frozenset({"threads", "patience_epochs", "checkpoint_seconds"})
ADDED: dict[str, Any] = {"sync_batch_norm": "auto"}  # settings that older checkpoints lack, with their default


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state atomically."""
    content = write_state(state)  # torch reports a full disk as a RuntimeError of its own; writing bytes as an OSError
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_checkpoint(path: Path, requested: dict[str, Any]) -> dict[str, Any]:
    """Return the saved state, on the CPU. Raises RunError if it is missing, damaged or from other settings."""
    if not path.is_file():
        raise RunError(
            f"There is no checkpoint at {path}: training has not saved one yet. Start the run again without --resume."
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = ADDED | state["asked"] | {"augment": AugmentConfig().model_dump() | state["asked"]["augment"]}
        for weights in ("network", "best_weights"):
            state[weights] = {_current_name(name): tensor for name, tensor in state[weights].items()}
    except (RuntimeError, OSError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise RunError(f"The checkpoint {path} is damaged ({type(error).__name__}). Start the run again.") from error
    for name in sorted((requested.keys() | before.keys()) - FREE_ON_RESUME):
        if requested.get(name) != before.get(name):
            raise RunError(
                f"The checkpoint {path} was trained with {name} = {before.get(name)}; now it is {requested.get(name)}. "
                "Resume with the same recipe and pictures, or start a new run."
            )
    return state


def write_state(state: Any) -> bytes:
    """Return tensors, numbers and texts, in dictionaries, lists and tuples, as the bytes of a torch file."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def read_state(content: bytes) -> Any:
    """Return what `write_state` wrote, on the CPU."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _current_name(name: str) -> str:
    """Return the name of a weight; until November 2026 the backbone was called trunk."""
    return f"backbone.{name.removeprefix('trunk.')}" if name.startswith("trunk.") else name
