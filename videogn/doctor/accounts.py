"""What a run may need from outside: an account at W&B, and files of weights."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from videogn.doctor.finding import Finding
from videogn.weights import KNOWN

_FILES = (".netrc", "_netrc")


def wandb() -> Finding:
    """Returns what `wandb.mode=auto` will do here; no key is read further than to be seen."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Finding("W&B", "ok", f"{mode}, as WANDB_MODE says")
    if _is_logged_in():
        return Finding("W&B", "ok", "online: a key is there")
    advice = "runs are recorded offline; `wandb login` to see them, or wandb.mode=disabled"
    return Finding("W&B", "ok", "offline: nobody is logged in", advice)


def _is_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / name for name in _FILES]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def weights() -> Finding:
    """Returns which of the known files of weights are here already."""
    here = [name for name, known in KNOWN.items() if known.cached.is_file()]
    if here:
        return Finding("weights", "ok", f"here: {', '.join(here)}")
    advice = "they are downloaded when first used; `run.py weights` lists them"
    return Finding("weights", "ok", "none of the known files is here", advice)
