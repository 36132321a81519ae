"""Whom it concerns, what it costs them, what the fix costs, and what is not affected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Finding
from qwenprof.diagnosis.known_issues import KnownIssue
from qwenprof.diagnosis.projected import (
    STAGE,
    TABLE,
    duration,
    main_effect,
    own_layer,
)
from qwenprof.diagnosis.projection import CONV, LINEAR, convolutions
from qwenprof.diagnosis.proof import passed, proof
from qwenprof.diagnosis.rules.known_issue import sort
from qwenprof.formatting import clean, count, percent, plural, size, times, times_with_interval
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.reading import is_measured, is_qwen, median_s
from qwenprof.report.section import (
    Block,
    Bullets,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.sections._closed_gate import closed_gate, seen_elsewhere
from qwenprof.report.sections._unnoticed import unnoticed
from qwenprof.report.telling import Telling

# counted in transformers 5.23.0, of which every default configuration was built; no run of this
# record has shown any of it
COUNTED = "35 model types of transformers 5.23.0, counted by building every default configuration"
FAMILIES = {
    "a patch at a time, with a bias": (
        "Qwen3-VL, Qwen3-VL-MoE, Qwen3-Omni-MoE, Qwen3.5, Qwen3.5-MoE, Qwen4-Exp, GLM-4V, "
        "GLM-4V-MoE, GLM-OCR, GLM5-Next, Cohere-Compass",
        "the number of features, and two more",
    ),
    "a patch at a time, without a bias": (
        "Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni, EXAONE 4.5, MiniMax-M3-VL",
        "two",
    ),
    "a whole clip": (
        "VideoMAE, ViViT, V-JEPA 2, VideoPrism",
        "not known; the equal Linear takes the clip cut into patches first",
    ),
}
OUTSIDE = (
    "Convolutions whose windows overlap, such as those of Emu3's VQ-VAE: they are no linear map of "
    "a patch, and the fix leaves them alone.",
    "Models whose patch embedding is a Conv2d (about 146 model types of the same version): the fix "
    "does not touch them, and this record says nothing about them.",
)
# findings about the measurement, or told elsewhere in this section
ASIDE = ("run-quality", "numerics", "exactness", "consistency", "known-issue")
ALIKE = 1.25  # times as fast: a dtype in which the Linear gains less is hardly concerned
MEMORY_NOISE = 0.02
NONE = "Nothing that this record could tell of."

Item = tuple[Inline, ...]


def compose(told: Telling) -> list[Block]:
    concerns = _concerns(told.record)
    blocks = _provoked(told.record)
    blocks += [paragraph(strong("Who is affected.")), *_affected(told, concerns)]
    blocks += [paragraph(strong("What it costs.")), *_bullets(_cost(told))]
    blocks += unnoticed(told.record)
    blocks += [paragraph(strong("What the fix costs.")), *_bullets(_price(told))]
    blocks += [paragraph(strong("What is not affected.")), *_bullets(_spared(told, concerns))]
    return blocks


def _provoked(record: Record) -> list[Block]:
    """Said first: a fault that was made on purpose costs nobody anything."""
    fault = record.workload.get("provoke")
    if not fault:
        return []
    return [
        paragraph(
            strong("Provoked on purpose:"),
            f" {fault}. What follows is what that fault costs in this run, and not what the model "
            "does here by itself.",
        )
    ]


def _concerns(record: Record) -> bool:
    """Whether the model has such a convolution at all."""
    return bool(own_layer(record) or convolutions(record)) or is_qwen(record)


def _bullets(items: Sequence[Item]) -> list[Block]:
    return [Bullets(items=tuple(items))] if items else [paragraph(NONE)]


def _affected(told: Telling, concerns: bool) -> list[Block]:
    if not told.record.environment:
        why = "Not known: the record holds no environment, so no versions."
        issues: list[Block] = [paragraph(why)]
    else:
        issues = [*_every_gpu(told.record), *_bullets(_issues(told.record))]
    if not concerns:
        return [
            *issues,
            paragraph(
                "The record shows no convolution whose windows do not overlap in this model."
            ),
        ]
    return [*issues, paragraph(_own(told.record)), _families()]


def _every_gpu(record: Record) -> list[Block]:
    """That a closed gate concerns no generation of GPUs in particular."""
    if closed_gate(record) is None:
        return []
    return [
        paragraph(
            strong("Every CUDA GPU with these versions,"),
            " and no generation in particular: the gate asks for torch, cuDNN, the dtype and the "
            f"convolution, and not for the GPU.{seen_elsewhere(record)}",
        )
    ]


def _issues(record: Record) -> list[Item]:
    """The known issues that these versions are exposed to, and what was seen of each."""
    found = sort(record)
    groups = {
        "Seen here": found.matches,
        "Possible here, not measured": found.open,
        "Exposed by version, and nothing measured would show it": found.unseen,
    }
    return [_issue(what, issue) for what, issues in groups.items() for issue in issues]


def _issue(what: str, issue: KnownIssue) -> Item:
    return (
        strong(f"{what}:"),
        f" {issue.title} (",
        code(issue.id),
        f"). It concerns {_conditions(issue)}. Fixed in: {issue.fixed_in}.",
    )


def _conditions(issue: KnownIssue) -> str:
    """What must hold for the issue, as the list of known issues has it."""
    return "; or ".join(
        ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in conditions.items())
        for conditions in (each.conditions() for each in issue.affected)
    )


def _said(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _own(record: Record) -> str:
    layer = own_layer(record)
    known = [layer.conv.get("bias")] if layer else [row.get("bias") for row in convolutions(record)]
    bias = next((each for each in known if isinstance(each, bool)), None)
    backend = ""
    if layer is not None and layer.backend is not None:
        backend = f", and PyTorch runs it here with {clean(layer.backend, 80)}"
    if bias is None:
        return f"Whether the convolution of this model has a bias was not recorded{backend}."
    return f"The convolution of this model has {'a' if bias else 'no'} bias{backend}."


def _families() -> Table:
    return Table(
        header=("Its convolution sees", "Model families", "Launches a patch in PyTorch's own loop"),
        align="lll",
        rows=tuple((sees, names, launches) for sees, (names, launches) in FAMILIES.items()),
        caption=f"Who has a Conv3d whose windows do not overlap: {COUNTED}. These are facts about "
        "model code, not measurements; whether one is slow depends on versions, dtype and device.",
    )


def _cost(told: Telling) -> list[Item]:
    effect, layer = main_effect(told.record), own_layer(told.record)
    if effect is None or effect.before is None or effect.speedup is None:
        return [
            ("Not known: the forward with the fix was neither measured nor can it be computed.",)
        ]
    before, after = effect.of_samples(told.samples)
    basis = "published" if is_published(told.record) else effect.basis
    said = times_with_interval(effect.speedup.value, effect.speedup.interval)
    if effect.gain != "faster" or before is None or after is None:
        return [
            (
                f"Nothing that was seen: with the fix the forward is {said} as fast ({basis}), "
                "which is no gain.",
            )
        ]
    saved_s = before.value_s - after.value_s
    items: list[Item] = [
        (
            f"A forward takes {said} as long as with the fix ({basis}, batch {effect.batch}): "
            f"{percent(1 - 1 / effect.speedup.value)} of its time is lost.",
        ),
        (
            f"For {plural(told.samples, 'sample')}: {duration(before.value_s, 3)} in place of "
            f"{duration(after.value_s, 3)}, {duration(saved_s, 3)} of one device's time (a "
            "projection of the forward alone).",
        ),
    ]
    if layer is not None:
        ratio = times_with_interval(layer.conv_s / layer.linear_s, layer.ratio.interval)
        items.append((f"The layer alone takes {ratio} as long as the equal Linear.",))
    return items


def _price(told: Telling) -> list[Item]:
    by_rule = {finding.rule: finding for finding in told.findings}
    items = [
        _exact(told.record, by_rule.get("exactness")),
        _memory(told.record),
        (
            "Nothing is renamed, reshaped or copied: the product takes a view of the convolution's "
            "own weight, so checkpoints, optimizers and gradients stay where they were.",
        ),
        (
            "It holds for the whole process, and code that torch.compile made before is compiled "
            "anew.",
        ),
    ]
    return items if _concerns(told.record) else []


def _exact(record: Record, finding: Finding | None) -> Item:
    checks = [row for row in proof(record).checks if row.get("variant") != CONV]
    if checks and (finding is None or finding.verdict == "not assessed"):
        return (strong("Exactness:"), f" {passed(checks)}; no rule could judge them.")
    if finding is None or finding.verdict == "not assessed":
        why = f": {' '.join(finding.evidence)}" if finding and finding.evidence else "."
        return (strong("Exactness:"), f" not assessed{why}")
    evidence = " ".join(finding.evidence) if finding.verdict == "problem" else ""
    return (strong("Exactness:"), f" {finding.title}. {evidence}".rstrip())


def _memory(record: Record) -> Item:
    pair = _peaks(record)
    if pair is None:
        return (strong("Memory:"), " not measured with and without the fix.")
    (conv, linear), what = pair
    change = linear / conv - 1
    if abs(change) <= MEMORY_NOISE:
        word = "no change that could be told from chance"
    else:
        word = f"{percent(abs(change))} {'more' if change > 0 else 'less'}"
    return (
        strong("Memory:"),
        f" {word}: at its peak {size(conv)} before and {size(linear)} with the fix ({what}).",
    )


def _peaks(record: Record) -> tuple[tuple[float, float], str] | None:
    """Peak memory before and after: of the whole forward, else of the projection alone."""
    own = number(record.workload.get("batch"))
    whole = [row for row in record.rows(STAGE, TABLE) if number(row.get("batch")) == own]
    layer = own_layer(record)
    alone = [layer.conv, layer.linear] if layer else []
    for rows, what in ((whole, "whole forward"), (alone, "the projection alone")):
        by_variant = {row.get("variant"): positive(row.get("peak_bytes")) for row in rows}
        conv, linear = by_variant.get(CONV), by_variant.get(LINEAR)
        if conv and linear:
            return (conv, linear), what
    return None


def _spared(told: Telling, concerns: bool) -> list[Item]:
    items: list[Item] = [
        (f"{finding.title}.",)
        for finding in told.findings
        if finding.verdict == "clear" and finding.rule not in ASIDE
    ]
    items += [
        (f"Measured and not there, though these versions are exposed to it: {issue.title}.",)
        for issue in sort(told.record).absent
        if issue.kind != "hazard"
    ]
    items += [(sentence,) for sentence in _dtypes(told.record)]
    return items + ([(sentence,) for sentence in OUTSIDE] if concerns else [])


def _dtypes(record: Record) -> list[str]:
    """The dtypes in which the Linear hardly gains, on the most patches of each."""
    pairs = _pairs_by_dtype(record)
    return [
        f"{dtype} on this machine: there the equal Linear is {times(ratio)} as "
        f"fast on {count(patches)} patches."
        for dtype, (ratio, patches) in pairs.items()
        if ratio < ALIKE
    ]


def _pairs_by_dtype(record: Record) -> Mapping[str, tuple[float, float]]:
    found: dict[tuple[str, float], dict[object, Row]] = {}
    for row in record.rows(STAGE, "variants"):
        patches = positive(row.get("patches"))
        if is_measured(row) and patches and row.get("direction") in (None, "forward"):
            key = (clean(str(row.get("dtype")), 20), patches)
            found.setdefault(key, {})[row.get("variant")] = row
    ratios: dict[str, tuple[float, float]] = {}
    for (dtype, patches), rows in sorted(found.items()):
        if CONV in rows and LINEAR in rows:
            ratios[dtype] = (median_s(rows[CONV]) / median_s(rows[LINEAR]), patches)
    return ratios


SECTION = Section(name="impact", order=92, title="Impact", compose=compose)
