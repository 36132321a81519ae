"""A closed gate: it is about versions and no GPU, who saw it too, and why nobody did before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.finding import diagnose
from qwenprof.record.published import writeup
from qwenprof.record.record import Cell, Facts, Record
from qwenprof.report import markdown
from qwenprof.report.section import sections
from qwenprof.report.sections._closed_gate import closed_gate
from qwenprof.report.telling import telling
from tests.diagnosis.convolutions import GATED, HEALTHY_GPU, compared, pair
from tests.report.conftest import HOSTILE

VERSIONS = "**It is about versions, not about a GPU.**"
CONCLUDED = "**What the source concluded, and what its own figures say.**"
UNNOTICED = "**Why it was not noticed before.**"


def told(given: Record, section: str) -> str:
    blocks = sections()[section].compose(telling(given, diagnose(given)))
    return "\n\n".join(markdown.render_block(block) for block in blocks)


def gated(torch: Facts = GATED, backend: str | None = "SlowDilated3d", **cells: Cell) -> Record:
    return compared(
        pair(backend, 16.1, 0.0003), torch=torch, forward_s=16.4, convolution=dict(cells)
    )


def named(given: Record, device: str) -> Record:
    facts = given.environment | {"device": {"type": "cuda", "name": device}}
    return msgspec.structs.replace(given, environment=facts)


@pytest.mark.parametrize("given", [writeup(), gated(), gated(backend=None)])
def test_a_closed_gate_is_found(given: Record) -> None:
    found = closed_gate(given)

    assert found is not None
    assert found.all_hold


@pytest.mark.parametrize(
    "given",
    [
        gated(torch=HEALTHY_GPU, backend="Cudnn"),
        gated(backend="Cudnn"),
        gated(memory_format="channels_last_3d"),
        gated(memory_format=None),
        compared(pair("Slow3d", 16.1, 0.0003), device_type="cpu"),
    ],
)
def test_what_is_open_or_not_known_is_no_closed_gate(given: Record) -> None:
    assert closed_gate(given) is None
    for section in ("dispatch", "impact"):
        text = told(given, section)
        assert VERSIONS not in text
        assert UNNOTICED not in text
        assert "Every CUDA GPU" not in text


def test_a_convolution_beside_it_that_takes_cudnn_opens_no_gate() -> None:
    given = gated()
    stage = given.stages["dispatch"]
    rows = [
        *stage.tables["convolutions"],
        {"module": "video.proj", "dtype": "bf16", "rank": 4, "backend": "Cudnn"},
    ]
    tables = {**stage.tables, "convolutions": rows}

    assert closed_gate(given.with_stage("dispatch", msgspec.structs.replace(stage, tables=tables)))


def test_the_cause_is_no_generation_of_gpus_and_others_saw_it() -> None:
    text = told(writeup(), "dispatch")

    assert VERSIONS in text
    assert "No condition of the gate asks for the architecture" in text
    assert "published for H200 (torch 2.9.0, 2.57 s) and H100 (versions not stated, about" in text
    assert "(2.9.0+cu128, " not in text  # its own case is no other's
    assert "| H200 | 2.9.0 | forward and backward, no bias, SlowDilated3d | bf16 | 34,480 |" in text
    assert "| H20 | not stated | forward | not stated | 576 | *362 us* | *20.0 us* |" in text
    for link in ("sglang-omni/pull/539", "sglang-omni/pull/132", "WoojuLee24/InternNav"):
        assert (
            f"https://github.com/{link if '/pull/' not in link else f'sgl-project/{link}'}" in text
        )


def test_the_gpu_that_was_measured_is_not_told_as_another() -> None:
    text = told(named(gated(), "NVIDIA H200"), "dispatch")

    assert "published for RTX 5090 (torch 2.9.0+cu128, 16.1 s) and H100" in text


def test_the_conclusion_of_the_source_is_held_against_its_own_figures() -> None:
    text = told(writeup(), "dispatch")

    assert f"{CONCLUDED} It concluded: a slow path of cuDNN on Blackwell" in text
    assert "makes 6.24 million launches in this call. Its 16.1 s over as many are 2.58 us" in text
    assert "the launches explain the whole time, and no arithmetic is to blame." in text


def test_only_a_published_record_has_a_source_that_concluded() -> None:
    stage = writeup().stages["dispatch"]
    own = msgspec.structs.replace(gated(), stages={**gated().stages, "dispatch": stage})

    assert VERSIONS in told(own, "dispatch")
    assert CONCLUDED not in told(own, "dispatch")


def test_impact_names_every_gpu_and_why_nobody_noticed() -> None:
    text = told(writeup(), "impact")

    assert "**Every CUDA GPU with these versions,** and no generation in particular" in text
    assert UNNOTICED in text
    assert "N x (D + 2) = 6.24 million launches" in text
    assert "without one N x 2 = 12,160, 513 x fewer" in text
    assert "the other kind would take 31.4 ms" in text
    assert "torch 2.8, 2.10, 2.11, 2.12 and 2.15 have none" in text
    assert "466 and 1,001 samples take 2.1 h and 4.6 h" in text
    assert "with the fix they take 2.1 min and 4.5 min" in text
    assert "Conv2d" in text


def test_how_it_was_found_is_computed_anew() -> None:
    text = told(writeup(), "impact")

    assert (
        "**How it was found, as published.** Extracting features with a data loader took 138 s an "
        "iteration of 8 samples (section 3). For 29,169 samples that makes 5.8 days, and 5 to 6 "
        "are stated."
    ) in text
    assert "How it was found" not in told(gated(), "impact")


def test_a_model_without_a_bias_is_told_what_one_would_cost() -> None:
    given = compared(
        [row | {"bias": False} for row in pair("SlowDilated3d", 0.0314, 0.0003)],
        torch=GATED,
        forward_s=1.0,
        convolution={"bias": False},
    )

    assert "This model has none: 31.4 ms a call." in told(given, "impact")
    assert "the other kind would take 16.1 s" in told(given, "impact")


@pytest.mark.parametrize("cell", [None, True, -1, 0, 1e308, "", "x", HOSTILE])
@pytest.mark.parametrize("table", ["found", "conclusions"])
def test_no_cell_makes_it_fail(table: str, cell: Any) -> None:
    stage = "batch-sweep" if table == "found" else "dispatch"
    result = writeup().stages[stage]
    (row,) = result.tables[table]
    for column in row:
        tables = {**result.tables, table: [row | {column: cell}]}
        given = writeup().with_stage(stage, msgspec.structs.replace(result, tables=tables))
        for section in ("dispatch", "impact"):
            assert "nan" not in told(given, section).split()
