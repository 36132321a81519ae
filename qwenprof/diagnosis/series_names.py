"""The names that series have in a record: one function for each table, from a row of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qwenprof.record.record import Row

Name = Callable[[Row], str]


def attention_series(row: Row) -> str:
    """Of a row of the attention sweep."""
    return f"{row.get('attention')}, {row.get('experiment')}/batch={row.get('batch')}"


def variant_series(row: Row) -> str:
    """Of a row of the comparison of projections."""
    direction = row.get("direction")
    suffix = "" if direction in (None, "forward") else f"/{direction}"
    return f"{row.get('variant')}/{row.get('dtype')}/{row.get('patches')}{suffix}"


# (stage, table) -> the name of a row's series
SERIES_NAMES: Mapping[tuple[str, str], Name] = {
    ("matmul", "gemm"): lambda row: f"gemm/{row.get('dtype')}/{row.get('size')}",
    ("batch-sweep", "batches"): lambda row: f"batch={row.get('batch')}",
    ("attention-sweep", "backends"): attention_series,
    ("breakdown", "phases"): lambda row: str(row.get("phase")),
    ("compare-patch-embed", "variants"): variant_series,
    ("compare-patch-embed", "after_fix"): lambda row: (
        f"whole forward/{row.get('variant')}/batch={row.get('batch')}"
    ),
    ("dispatch", "experiments"): lambda row: f"{row.get('module')}/{row.get('experiment')}",
}
