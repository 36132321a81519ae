"""The convolution that the report proves to be a matrix product, with its shapes as recorded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.projection import comparison, convolutions, measured
from qwenprof.diagnosis.verdict import Verdict
from qwenprof.record.record import Cell, Record, Row

LONGEST_SIZE = 9  # digits; what is longer is no size
AXES = {1: ("t",), 2: ("h", "w"), 3: ("t", "h", "w")}
ITS_RANK = 3  # of the patch embeddings that this report is about, where nothing was recorded


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution whose windows do not overlap; None or () is what was not recorded.

    kernel: sizes along one to three axes. input: (N, C, *S), or (C, *S) without a batch.
    windows: of the whole input.
    """

    module: str
    kernel: tuple[int, ...] = ()
    channels: int | None = None
    features: int | None = None
    windows: int | None = None
    input: tuple[int, ...] = ()
    bias: bool | None = None
    dtype: str | None = None
    backend: str | None = None
    memory_format: str | None = None

    @property
    def rank(self) -> int:
        return len(self.kernel) or ITS_RANK

    @property
    def kind(self) -> str:
        """The name of its class in torch.nn."""
        return f"Conv{self.rank}d"

    @property
    def axes(self) -> tuple[str, ...]:
        return AXES[self.rank]

    @property
    def terms(self) -> int | None:
        """How many products each output sums: C * prod(K)."""
        return self.channels * prod(self.kernel) if self.channels and self.kernel else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the input along the axes of the kernel."""
        return self.input[-len(self.kernel) :] if self.kernel and self.input else ()

    @property
    def is_cut(self) -> bool | None:
        """Whether each sample is one window already, as the processors of Qwen-VL cut them."""
        return self.sizes == self.kernel if self.sizes else None

    @property
    def grid(self) -> tuple[int, ...]:
        """Windows of one sample along each axis."""
        return tuple(size // step for size, step in zip(self.sizes, self.kernel, strict=True))

    @property
    def channels_last(self) -> bool:
        return str(self.memory_format).startswith("channels_last")

    @property
    def is_complete(self) -> bool:
        """Whether all shapes are known."""
        return None not in (self.terms, self.features, self.windows)


def convolution(record: Record) -> Convolution | None:
    """The one that was compared with its Linear, else the first; None where none was recorded."""
    found, rows = comparison(record), convolutions(record)
    timed = found.conv if found else next(iter(measured(record)), None)
    described = [row for row in rows if timed and row.get("module") == timed.get("module")]
    row = next(iter(described or rows), None)
    if row is None and timed is None:
        return None
    return _read({**(timed or {}), **(row or {})})


def is_blamed(told: Verdict, conv: Convolution) -> bool:
    """Whether the verdict is about this convolution or the module that holds it."""
    culprit = told.culprit
    if not culprit:
        return False
    return any(
        f".{long}".endswith(f".{short}")
        for path in (conv.module, conv.module.rpartition(".")[0])
        for long, short in ((path, culprit), (culprit, path))
        if short
    )


def _read(row: Row) -> Convolution:
    kernel, weight = shape(row.get("kernel")), shape(row.get("weight_shape"))
    if len(kernel) not in AXES:
        kernel = ()
    fits = len(weight) == len(kernel) + 2
    given = shape(row.get("input_shape"))
    return Convolution(
        module=_text(row.get("module")) or "patch_embed.proj",
        kernel=kernel,
        channels=weight[1] if fits else _channels(row, kernel),
        features=weight[0] if fits else _whole(row.get("features")),
        windows=_whole(row.get("patches")),
        input=given if kernel and len(given) in (len(kernel) + 1, len(kernel) + 2) else (),
        bias=bias if isinstance(bias := row.get("bias"), bool) else None,
        dtype=_text(row.get("dtype")),
        backend=_text(row.get("backend")),
        memory_format=_text(row.get("memory_format")),
    )


def shape(cell: Cell) -> tuple[int, ...]:
    """ "2x16x16" as numbers; empty for anything else."""
    parts = str(cell).split("x")
    sizes = [int(part) for part in parts if part.isdecimal() and len(part) <= LONGEST_SIZE]
    return tuple(sizes) if len(sizes) == len(parts) and all(sizes) else ()


def _channels(row: Row, kernel: tuple[int, ...]) -> int | None:
    terms = _whole(row.get("features_in"))
    if terms is None or not kernel or terms % prod(kernel):
        return None
    return terms // prod(kernel) or None


def _whole(cell: Cell) -> int | None:
    value = number(cell)
    return int(value) if value is not None and value >= 1 else None


def _text(cell: Cell) -> str | None:
    return None if cell is None or cell == "" else str(cell)
