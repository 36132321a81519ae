"""What a known issue does to the measurements: named questions about a record.

Each answers True or False where it was measured and None where it was not. A threshold says what
it was chosen to tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.projection import (
    CONV,
    SLOW_BACKENDS,
    Comparison,
    comparison,
    description,
    measured,
)
from qwenprof.diagnosis.proof import REFERENCE, WRONG, Proof, factor, proof, said
from qwenprof.formatting import clean, count, seconds, significant, size, times
from qwenprof.record.record import Cell, Record, Row

STAGE = "compare-patch-embed"
SURELY_SLOW_RATIO = 50.0  # published slow dispatches are 500 to 54,000 times the Linear
HEALTHY_RATIO = 20.0  # published healthy dispatches are 2 to 20 times the Linear
MUCH_SLOWER_RATIO = 10.0  # measured on CPUs: 1.3 to 5 where nothing is wrong, 20 to 110 else
WRONG_ERROR = WRONG * 2.0**-8  # 2^-8 is the rounding of bf16, the coarsest dtype
MEMORY_RATIO = 2.0  # of two peaks that both hold the model; the report of it has 2.9
COSTLY_SPLIT = 1.2  # beyond the noise of a sample, as in the rule about attention
NO_ENGINE = (
    "engine",
    "execution plan",
    "cudnn_status_not_supported",
)  # cuDNN's and PyTorch's words


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One of them.

    holds: the answer.
    said: what was measured, as a sentence with its numbers; asked only where `holds` is True.
    """

    holds: Callable[[Record], bool | None]
    said: Callable[[Record], str]


def conv_slow_dispatch(record: Record) -> bool | None:
    """Whether the convolution runs in one of PyTorch's own loops instead of a vendor library.

    Its backend tells. Where that was not recorded, 50 times the equal Linear tells that it does,
    20 times and less that it does not, and between the two it stays open.
    """
    found = _comparison(record)
    if found is None:
        return None
    backend = _backend(record, found)
    if backend is not None:
        return backend in SLOW_BACKENDS
    if _ratio(found) >= SURELY_SLOW_RATIO:
        return True
    return False if _ratio(found) <= HEALTHY_RATIO else None


def dispatch_observed(record: Record) -> bool:
    """Whether the convolution's backend was recorded, and not inferred from its time."""
    found = _comparison(record)
    return found is not None and _backend(record, found) is not None


def conv_much_slower_than_linear(record: Record) -> bool | None:
    """Whether a convolution on a vendor library takes over 10 times as long as the equal Linear.

    Open where the interval of the ratio holds ten: a disturbed run must match no issue. Open too
    where one of PyTorch's own loops ran, since the vendor library was never called then.
    """
    found = _comparison(record)
    if found is None:
        return None
    backend = _backend(record, found)
    if backend is None or backend in SLOW_BACKENDS:
        return None
    if found.ratio.interval is None and disturbances(record, "compare-patch-embed"):
        return None
    if found.ratio.most < MUCH_SLOWER_RATIO:
        return False
    return True if found.ratio.least >= MUCH_SLOWER_RATIO else None


def output_wrong(record: Record) -> bool | None:
    """Whether the convolution's output is further from fp64 than any rounding takes it."""
    return _worst_of(_checked(record, "output", WRONG), _far_off(record, "forward"))


def weight_gradient_wrong(record: Record) -> bool | None:
    """Whether the convolution's weight gradient fails its check against fp64.

    Any failure counts: on the few patches that a slow path affords it is off by 1.7 times the
    tolerance, which grows with the patches.
    """
    return _worst_of(_checked(record, "weight gradient", 1.0), _far_off(record, "backward"))


def conv_memory(record: Record) -> bool | None:
    """Whether the convolution's peak memory is twice that of the equal Linear, on a GPU.

    A CPU's peak is that of the process so far and tells nothing of one layer.
    """
    found = _comparison(record)
    if found is None or record.fact("device", "type") == "cpu":
        return None
    conv, linear = (positive(row.get("peak_bytes")) for row in (found.conv, found.linear))
    return None if conv is None or linear is None else conv >= MEMORY_RATIO * linear


def backward_fails(record: Record) -> bool | None:
    """Whether the convolution's backward ended in an error about engines."""
    rows = _conv_rows(record, "backward")
    if any(_names_engine(row) for row in rows):
        return True
    return False if any(row.get("status") == "ok" for row in rows) else None


def attention_split_costs(record: Record) -> bool | None:
    """Whether a plain SDPA in place of the model's attention is over 1.2 times as fast.

    Only where both were sampled more than once.
    """
    pair = _attention_pair(record)
    return None if pair is None else pair[0] / pair[1] > COSTLY_SPLIT


def patch_embedding_fused(record: Record) -> bool | None:
    """Whether the model was loaded with transformers' fused patch embedding."""
    paths = [str(row.get("path")) for row in record.rows("per-layer", "modules")]
    if any(path.endswith("patch_embed.linear_proj") for path in paths):
        return True
    return False if paths or _conv_rows(record, "forward") else None


def fusion_config_refused(record: Record) -> bool | None:
    """Whether transformers' fusion left the convolution of this model as it was."""
    rows = [row for row in record.rows(STAGE, "variants") if row.get("variant") == "fusion_config"]
    if any("does not cover" in _reason(row) for row in rows):
        return True
    return False if any(row.get("status") == "ok" for row in rows) else None


def load_size_mismatch(record: Record) -> bool | None:
    """Whether a stage failed because a patch embedding's weight did not fit its checkpoint."""
    if any(map(_is_mismatch, _failures(record))):
        return True
    return False if any(each.status == "ok" for each in record.stages.values()) else None


def _comparison(record: Record) -> Comparison | None:
    """The comparison with both times in it, so that a ratio can be taken."""
    found = comparison(record)
    return found if found and found.conv_s and found.linear_s else None


def _ratio(found: Comparison) -> float:
    return found.conv_s / found.linear_s


def _backend(record: Record, found: Comparison) -> Cell:
    """As the comparison has it, else the dispatch stage; None where neither recorded it."""
    return found.backend or description(record, found.module).get("backend")


def _worst_of(*answers: bool | None) -> bool | None:
    if True in answers:
        return True
    return False if False in answers else None


def _checks(record: Record, check: str) -> list[Row]:
    """The verify stage's checks of the convolution in the workload's dtype against fp64."""
    found: Proof = proof(record)
    own = [] if found.is_void else found.of([CONV])
    return [
        row
        for row in own
        if row.get("check") == check
        and row.get("reference") == REFERENCE
        and row.get("dtype") == record.workload.get("dtype")
    ]


def _checked(record: Record, check: str, least: float) -> bool | None:
    """Whether such a check failed by `least` times its tolerance or more."""
    rows = _checks(record, check)
    return any(_fails(row, least) for row in rows) if rows else None


def _fails(row: Row, least: float) -> bool:
    return row.get("passed") is False and factor(row) >= least


def _far_off(record: Record, direction: str) -> bool | None:
    error = _error(record, direction)
    return None if error is None else error >= WRONG_ERROR


def _error(record: Record, direction: str) -> float | None:
    """The convolution's largest relative error (2-norm) in the comparison.

    Older records have the cosine c alone: two vectors of one length differ by sqrt(2 - 2c).
    """
    rows = [row for row in measured(record, direction) if row.get("variant") == CONV]
    errors = [error for row in rows if (error := _row_error(row)) is not None]
    return max(errors, default=None)


def _row_error(row: Row) -> float | None:
    stated, cosine = number(row.get("relative_error")), number(row.get("cosine"))
    if stated is not None or cosine is None or abs(cosine) > 1:
        return stated
    return math.sqrt(2 - 2 * cosine)


def _conv_rows(record: Record, direction: str) -> list[Row]:
    return [
        row
        for row in record.rows(STAGE, "variants")
        if row.get("variant") == CONV
        and row.get("direction") == direction
        and row.get("dtype") == record.workload.get("dtype")
    ]


def _names_engine(row: Row) -> bool:
    reason = _reason(row).lower()
    return row.get("status") == "failed" and any(word in reason for word in NO_ENGINE)


def _reason(row: Row) -> str:
    return str(row.get("reason") or "")


def _attention_pair(record: Record) -> tuple[float, float] | None:
    """Seconds with the model's attention, and with a plain SDPA in its place, at one batch."""
    rows = [
        row
        for row in record.rows("attention-sweep", "backends")
        if row.get("status") == "ok"
        and positive(row.get("median_s"))
        and (number(row.get("n")) or 0.0) > 1
    ]
    plain = {row.get("batch"): row for row in rows if _is_plain(row)}
    for row in rows:
        if row.get("attention") == record.workload.get("attention") and not _is_plain(row):
            other = plain.get(row.get("batch"))
            if other is not None:
                return (
                    positive(row.get("median_s")) or 0.0,
                    positive(other.get("median_s")) or 1.0,
                )
    return None


def _is_plain(row: Row) -> bool:
    return row.get("experiment") == "replaced by plain SDPA"


def _failures(record: Record) -> list[str]:
    return [each.reason or "" for each in record.stages.values() if each.status == "failed"]


def _is_mismatch(reason: str) -> bool:
    lower = reason.lower()
    return "patch_embed" in lower and ("size mismatch" in lower or "mismatched" in lower)


def _said_comparison(record: Record) -> str:
    found = _comparison(record)
    if found is None:
        return "Not measured."
    backend = clean(str(_backend(record, found) or "that was not recorded"), 60)
    return (
        f"{count(found.patches)} patches: Conv3d {seconds(found.conv_s)} on a backend {backend}, "
        f"the equal Linear {seconds(found.linear_s)}, {times(_ratio(found))} as fast."
    )


def _said_memory(record: Record) -> str:
    found = _comparison(record)
    rows = (found.conv, found.linear) if found else ()
    conv, linear = [size(positive(row.get("peak_bytes"))) for row in rows] or ["?", "?"]
    return f"Peak memory with Conv3d {conv}, with the equal Linear {linear}."


def _said_error(check: str, direction: str) -> Callable[[Record], str]:
    def sentence(record: Record) -> str:
        failed = [row for row in _checks(record, check) if row.get("passed") is False]
        if failed:
            return f"Failed: {clean(said(failed[0]))}."
        error = significant(_error(record, direction))
        return f"The {check} of Conv3d is off by {error} of its size (2-norm) from fp64."

    return sentence


def _said_backward(record: Record) -> str:
    rows = [row for row in _conv_rows(record, "backward") if _names_engine(row)]
    return f"The backward of Conv3d failed: {clean(_reason(rows[0]), 200)}."


def _said_attention(record: Record) -> str:
    own, plain = _attention_pair(record) or (None, None)
    return (
        f"The forward takes {seconds(own)} with the model's attention and {seconds(plain)} with a "
        "plain SDPA in its place."
    )


def _said_mismatch(record: Record) -> str:
    return f"A stage failed: {clean(next(filter(_is_mismatch, _failures(record))), 200)}."


SIGNATURES = {
    "conv-slow-dispatch": Signature(holds=conv_slow_dispatch, said=_said_comparison),
    "conv-much-slower-than-linear": Signature(
        holds=conv_much_slower_than_linear, said=_said_comparison
    ),
    "output-wrong": Signature(holds=output_wrong, said=_said_error("output", "forward")),
    "weight-gradient-wrong": Signature(
        holds=weight_gradient_wrong, said=_said_error("weight gradient", "backward")
    ),
    "conv-memory": Signature(holds=conv_memory, said=_said_memory),
    "backward-fails": Signature(holds=backward_fails, said=_said_backward),
    "attention-split-costs": Signature(holds=attention_split_costs, said=_said_attention),
    "patch-embedding-fused": Signature(
        holds=patch_embedding_fused,
        said=lambda record: (
            "The patch embedding's projection is patch_embed.linear_proj, a Linear."
        ),
    ),
    "fusion-config-refused": Signature(
        holds=fusion_config_refused,
        said=lambda record: "Its Conv3d was still there after fusion_config.",
    ),
    "load-size-mismatch": Signature(holds=load_size_mismatch, said=_said_mismatch),
}
