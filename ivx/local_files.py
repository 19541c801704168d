"""Addresses and names on the Hugging Face hub in place of files: ivx downloads nothing."""

import os
import re

from ivx.errors import UserError

_ADDRESS = re.compile(r"(https?|ftp|hf)://?\S", re.IGNORECASE)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check(path: str, flag: str = "") -> None:
    """Checks that a path is no address.

    Args:
      path: a path.
      flag: the flag that gave it, for the message.

    Raises:
      UserError: it is an address on the network.
    """
    if _ADDRESS.match(path):
        name = f"--{flag}={path}" if flag else path
        raise UserError(
            f"{name} is an address, and ivx downloads nothing; download it, and give the path of"
            " the local copy"
        )


def download_hint(path: str) -> str:
    """How to get a folder that does not exist, if its name is one of the hub, else nothing."""
    if not _HUB.fullmatch(path) or os.path.exists(path):
        return ""
    return (
        f"; if {path} is a model on Hugging Face, download it first, as ivx does not:"
        f" `hf download {path} --local-dir DIR` (pip install huggingface_hub), and give DIR"
    )
