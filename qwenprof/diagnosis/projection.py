"""What a record says of one patch projection: the convolution, what equals it, and why it is slow.

The slow path of PyTorch launches N * (D * [bias] + 2) kernels for N patches and D features: one
vol2col and one matrix product a patch, and with a bias one fill a feature of each patch. Source:
ATen/native/NaiveDilatedConvolution.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.forward import forward_s
from qwenprof.diagnosis.series_names import variant_series
from qwenprof.harness.statistics import NOISY_IQR, Fit, fit_line, summarize
from qwenprof.record.record import Record, Row

STAGE = "compare-patch-embed"
CONV, LINEAR, BIAS_APART = "Conv3d", "Linear", "bias apart"
CHANNELS_LAST, CUDNN_DIRECT, SLOW_DIRECT = (
    "channels_last_3d",
    "cudnn_convolution",
    "slow_conv_dilated3d",
)
SLOW_BACKENDS = ("Slow2d", "Slow3d", "SlowDilated2d", "SlowDilated3d", "SlowNd")
LAUNCHING_BACKEND = "SlowDilated3d"
UNMISTAKABLE = 50.0  # times the Linear: no library is so much slower than a matrix product
CPU_BACKEND = "Slow3d"  # the loop that a CPU falls into


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as fast as the convolution as dispatched; the interval may be missing."""

    value: float
    interval: tuple[float, float] | None

    @property
    def least(self) -> float:
        return self.interval[0] if self.interval else self.value

    @property
    def most(self) -> float:
        return self.interval[1] if self.interval else self.value


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Convolution and Linear at the largest patch count measured in the workload's dtype."""

    conv: Row
    linear: Row

    @property
    def conv_s(self) -> float:
        return positive(self.conv.get("median_s")) or 0.0

    @property
    def linear_s(self) -> float:
        return positive(self.linear.get("median_s")) or 0.0

    @property
    def ratio(self) -> Ratio:
        return speedup(self.linear) or Ratio(value=self.conv_s / self.linear_s, interval=None)

    @property
    def saved_s(self) -> float:
        """Seconds that the linear layer saves in one call."""
        return self.conv_s - self.linear_s

    @property
    def backend(self) -> str | None:
        cell = self.conv.get("backend")
        return None if cell is None else str(cell)

    @property
    def is_slow_backend(self) -> bool:
        return self.backend in SLOW_BACKENDS

    @property
    def module(self) -> str:
        return str(self.conv.get("module") or "patch_embed.proj")

    @property
    def patches(self) -> int:
        return int(positive(self.conv.get("patches")) or 0)


@dataclass(frozen=True, kw_only=True)
class Launches:
    """What the slow path launches in one call, and what that should take.

    latency_s: of one launch, as this machine's matmul stage measured it; None if it did not.
    """

    count: int
    features: int
    with_bias: bool
    latency_s: float | None
    measured_s: float

    @property
    def predicted_s(self) -> float | None:
        return None if self.latency_s is None else self.count * self.latency_s

    @property
    def each_s(self) -> float:
        """Seconds that one launch would have to take, if they were all of the time."""
        return self.measured_s / self.count


def measured(record: Record, direction: str = "forward") -> list[Row]:
    """The timed rows of the comparison in the workload's dtype."""
    return [
        row
        for row in record.rows(STAGE, "variants")
        if row.get("dtype") == record.workload.get("dtype")
        and row.get("direction") == direction
        and positive(row.get("median_s"))
    ]


def comparison(record: Record) -> Comparison | None:
    """The comparison that counts; None where it was not made."""
    rows = measured(record)
    most = max((number(row.get("patches")) or 0.0 for row in rows), default=0.0)
    by_variant = {row.get("variant"): row for row in rows if number(row.get("patches")) == most}
    if CONV not in by_variant or LINEAR not in by_variant:
        return None
    return Comparison(conv=by_variant[CONV], linear=by_variant[LINEAR])


def variant(record: Record, name: str) -> Row | None:
    """The forward of a variant on the most patches that it was measured on."""
    rows = [row for row in measured(record) if row.get("variant") == name]
    return max(rows, key=lambda row: number(row.get("patches")) or 0.0, default=None)


def speedup(row: Row) -> Ratio | None:
    """The speed-up that a row of the comparison states; None where it states none."""
    value = positive(row.get("speedup"))
    if value is None:
        return None
    low, high = (positive(row.get(f"speedup_{end}")) for end in ("low", "high"))
    interval = (low, high) if low is not None and high is not None else None
    return Ratio(value=value, interval=interval)


def per_patch(record: Record) -> Fit | None:
    """Seconds of the convolution over its patches; None with fewer than three patch counts.

    A line through two points fits whatever they are.
    """
    points = sorted(
        (number(row.get("patches")) or 0.0, positive(row.get("median_s")) or 0.0)
        for row in measured(record)
        if row.get("variant") == CONV
    )
    counts, seconds = [x for x, _ in points], [y for _, y in points]
    return fit_line(counts, seconds) if len(set(counts)) > 2 else None


def launches(record: Record, found: Comparison) -> Launches | None:
    """What the slow path would launch for these patches; None where the shape is not known."""
    features = _features(record, found)
    bias = _fact(record, found, "bias")
    if features is None or not isinstance(bias, bool) or not found.patches or not found.conv_s:
        return None
    rates = record.rows("matmul", "machine")
    return Launches(
        count=found.patches * (features * bias + 2),
        features=features,
        with_bias=bias,
        latency_s=positive(rates[0].get("launch_latency_s")) if rates else None,
        measured_s=found.conv_s,
    )


def convolutions(record: Record) -> list[Row]:
    """The convolutions whose windows do not overlap, as the dispatch stage found them."""
    return record.rows("dispatch", "convolutions")


def description(record: Record, module: str) -> Row:
    """What is known of one convolution: the dispatch stage's row, empty where it did not run."""
    rows = convolutions(record)
    return next((row for row in rows if row.get("module") == module), {})


def saved_s(record: Record, found: Comparison) -> float:
    """Seconds that the linear layer would save of each call; at least nought.

    In a disturbed or noisy run no more than the fastest samples of both tell, which a disturbance
    spoils last.
    """
    pair = (found.conv, found.linear)
    if disturbances(record, STAGE) or any(_is_noisy(record, row) for row in pair):
        conv_s, linear_s = (_fastest_s(record, row) for row in pair)
        return max(0.0, min(found.saved_s, conv_s - linear_s))
    return max(0.0, found.saved_s)


def share_saved(record: Record, found: Comparison) -> float | None:
    """Share of the workload's forward that the linear layer would save; at least nought."""
    whole_s = forward_s(record)
    return min(saved_s(record, found) / whole_s, 1.0) if whole_s else None


def _samples_s(record: Record, row: Row) -> list[float]:
    """The raw samples of a row, or its median where the record has none."""
    held = record.stages[STAGE].series.get(variant_series(row))
    return list(held.values) if held and held.values else [positive(row.get("median_s")) or 0.0]


def _fastest_s(record: Record, row: Row) -> float:
    return min(_samples_s(record, row))


def _is_noisy(record: Record, row: Row) -> bool:
    summary = summarize(_samples_s(record, row))
    return summary.iqr > NOISY_IQR * summary.median


def _fact(record: Record, found: Comparison, key: str) -> object:
    known: Sequence[Row] = (description(record, found.module), found.conv)
    return next((row[key] for row in known if row.get(key) is not None), None)


def _features(record: Record, found: Comparison) -> int | None:
    features = positive(description(record, found.module).get("features"))
    if features is None:
        rows = record.rows(STAGE, "launches")
        features = positive(rows[0].get("features")) if rows else None
    return None if features is None else int(features)
