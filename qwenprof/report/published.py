"""What was published about the slow patch embedding of Qwen3-VL, to hold a run against.

The numbers are those of the published record. They are quoted, never measured here, and a report
sets them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number
from qwenprof.record.published import writeup
from qwenprof.record.record import Facts, Row

_RECORD = writeup()
_WORKLOAD_KEYS = (
    "family",
    "size",
    "scope",
    "dtype",
    "frames",
    "short_edge",
    "batch",
    "patches",
    "sequence_length",
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One published row of the batch sweep; the number of patches was not published."""

    batch: int
    total_s: float
    sequence_length: int
    memory_gb: float


def _known(row: Row, column: str) -> float:
    """A number that the published record holds.

    Raises:
        ValueError: it does not.
    """
    value = number(row.get(column))
    if value is None:
        raise ValueError(f"the published record has no number in {column} of {row}")
    return value


def _batches() -> tuple[Batch, ...]:
    return tuple(
        Batch(
            batch=int(_known(row, "batch")),
            total_s=_known(row, "median_s"),
            sequence_length=int(_known(row, "sequence_length")),
            memory_gb=_known(row, "peak_bytes") / 1e9,
        )
        for row in _RECORD.rows("batch-sweep", "batches")
    )


def _attention() -> dict[str, tuple[float | None, float | None]]:
    switched = {
        (str(row["attention"]), row["batch"]): number(row["median_s"])
        for row in _RECORD.rows("attention-sweep", "backends")
        if row["experiment"] == "switched"
    }
    names = ("eager", "sdpa", "flash_attention_2")
    return {name: (switched[name, 1], switched[name, 8]) for name in names}


def _components_s() -> dict[str, float]:
    rows = _RECORD.rows("per-layer", "modules")
    by_name = {str(row["path"]).rpartition(".")[2]: row for row in rows}
    blocks = _RECORD.rows("per-layer", "blocks")[0]
    return {
        "patch_embed": _known(by_name["patch_embed"], "inclusive_s"),
        "position interpolation": _known(by_name["fast_pos_embed_interpolate"], "inclusive_s"),
        "rotary position": _known(by_name["rot_pos_emb"], "inclusive_s"),
        "blocks, the first": _known(blocks, "first_s"),
        "blocks, each other": _known(blocks, "mean_of_others_s"),
        "blocks, all 24": _known(blocks, "total_s"),
        "merger": _known(by_name["merger"], "inclusive_s"),
    }


def _variants() -> Mapping[str, Row]:
    rows = _RECORD.rows("compare-patch-embed", "variants")
    return {str(row["variant"]): row for row in rows}


DEVICE = str(_RECORD.fact("device", "name"))
SOURCE = (
    f"Published for {DEVICE}, torch {_RECORD.fact('torch', 'version')}, "
    f"cuDNN {_RECORD.fact('torch', 'cudnn_runtime')}, {_RECORD.workload['dtype']}; "
    "not measured here."
)
WORKLOAD: Facts = {key: _RECORD.workload[key] for key in _WORKLOAD_KEYS}

BATCHES = _batches()
BATCH_SIZES = tuple(each.batch for each in BATCHES)
ATTENTION = _attention()  # seconds at batch 1 and at batch 8; None was not published

TOTAL_S = _known(_RECORD.rows("per-layer", "summary")[0], "total_s")
COMPONENTS_S = _components_s()
PATCHES = int(_known(_variants()["Conv3d"], "patches"))
CONV_S, LINEAR_S = (_known(_variants()[name], "median_s") for name in ("Conv3d", "Linear"))
