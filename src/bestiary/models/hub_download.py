"""Download of weights from the Hugging Face hub, into its own cache; a file that is there is not downloaded again."""

from __future__ import annotations

import logging
from pathlib import Path

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


def download_weights(repository: str, file: str | None = None) -> Path:
    """Return the path of a repository's weights: the file, by default SAFE, else PICKLED.

    repository: "owner/name", or "owner/name@revision". Raises what the hub's client does, such as
    LocalEntryNotFoundError if it cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.CRITICAL)  # its retries: what fails is reported in one message
    try:
        return Path(hf_hub_download(name, file or SAFE, revision=revision or None))
    except LocalEntryNotFoundError:  # an EntryNotFoundError too, but the hub could not be reached
        raise
    except EntryNotFoundError:
        return Path(hf_hub_download(name, PICKLED, revision=revision or None))
    finally:
        client.setLevel(level)
