"""What others published of the same projection on other GPUs and with other versions.

The cases are published_cases.toml. None of them was measured by qwenprof.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "published_cases.toml"
Direction = Literal["forward", "forward and backward"]


class PublishedCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published time of Conv3d, with that of the Linear where there is one.

    conv_s, linear_s: of one call, in seconds. about: the source rounds or estimates it.
    slow: whether it is the time of PyTorch's slow loop, as far as a time can tell.
    shows: what the case tells of the gate, in a few words.
    None is what the source does not state.

    Raises:
        ValueError: a time is not positive, or the link is not https.
    """

    gpu: str
    conv_s: float
    slow: bool
    shows: str
    source: str
    link: str
    linear_s: float | None = None
    about: bool = False
    torch: str | None = None
    cudnn: str | None = None
    backend: str | None = None
    memory_format: str | None = None
    dtype: str | None = None
    patches: int | None = None
    direction: Direction = "forward"
    bias: bool | None = None

    def __post_init__(self) -> None:
        times_s = [self.conv_s, *([] if self.linear_s is None else [self.linear_s])]
        if min(times_s) <= 0:
            raise ValueError(f"{self.gpu}: a time must be more than 0, not {min(times_s)}")
        if not self.link.startswith("https://"):
            raise ValueError(f"{self.gpu}: the link must begin with https://, not {self.link!r}")


class _Cases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case: tuple[PublishedCase, ...]


@cache
def published_cases() -> tuple[PublishedCase, ...]:
    """All of them, as the file has them.

    Raises:
        msgspec.ValidationError: an entry breaks its form; the message says which and how.
    """
    text = resources.files("qwenprof.diagnosis").joinpath(FILE).read_text(encoding="utf-8")
    return read_cases(text)


def read_cases(text: str) -> tuple[PublishedCase, ...]:
    """The cases that a TOML text holds.

    Raises:
        msgspec.ValidationError: an entry breaks its form.
    """
    return msgspec.convert(tomllib.loads(text), _Cases).case
