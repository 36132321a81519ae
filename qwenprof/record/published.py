"""A record of what others published: the figures of a writeup, in the form of a run.

It goes through the same rules and the same report as a run of one's own. Nothing in it was
measured by qwenprof: its tool is "published", its workload says so, and each row names its place
in the source, with what was computed from published figures or added to them.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path

from qwenprof.record.record import Record, load

WRITEUP, TOOL = "writeup", "published"
SAMPLES = 29_169  # of the dataset that its times are projected to


@cache
def writeup() -> Record:
    """The published figures on the slow patch embedding of Qwen3-VL on an RTX 5090.

    Source: the writeup of 2026-05-03; see also huggingface/transformers#45750.
    """
    file = resources.files("qwenprof.record") / f"{WRITEUP}.json"
    with resources.as_file(file) as path:
        return load(path)


def is_published(record: Record) -> bool:
    """Whether a record's figures were taken from a publication, and not measured by qwenprof."""
    return record.tool.name == TOOL


def is_writeup(path: Path | str) -> bool:
    """Whether the word `writeup` is meant, and not a file or a folder of that name."""
    return str(path) == WRITEUP and not os.path.exists(path)


def load_or_writeup(path: Path | str) -> Record:
    """The record at a path, or the published one where the path is the word `writeup`.

    Raises:
        RecordError: as `load` does.
    """
    return writeup() if is_writeup(path) else load(path)
