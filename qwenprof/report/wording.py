"""Small matters of wording that every section shares."""

from __future__ import annotations

import re

PLAIN_WORD = re.compile(r"[a-z]+(?=[\s,.:;']|$)")


def opened(sentence: str, names: str | None = None) -> str:
    """A sentence that begins with a capital, unless its first word is a name that has none.

    Paths (model.visual, patch_embed), dtypes (bf16) and versions are names. So is a word of
    `names`, a path whose single parts look like plain words: "merger" of "model.visual.merger".
    """
    word = PLAIN_WORD.match(sentence)
    if word is None or word[0] in (names or "").split(".") or "." in _first(sentence):
        return sentence
    return f"{sentence[0].upper()}{sentence[1:]}"


def _first(sentence: str) -> str:
    """The first word without the mark that ends it."""
    return sentence.split(maxsplit=1)[0].rstrip(".,:;")
