"""The known word that a wrong one was probably meant to be."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns the one of `known` that `word` most resembles, "" when none does.

    Neither capitals count nor letters that Unicode holds for other forms of the same.
    """
    forms = {_plain(name): name for name in known}
    found = difflib.get_close_matches(_plain(word), forms, n=1, cutoff=0.55)  # zhs is zsh: 0.67
    return forms[found[0]] if found else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" of the nearest known word, "" when none is near."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()
