"""The breakdown section: what it excludes, and that it says so when it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwenprof.record.record import Record, Row
from qwenprof.report import markdown, plots
from qwenprof.report.section import Block, Figure, sections
from qwenprof.report.telling import telling

PIPELINE: Row = {
    "images": 8,
    "serial_s": 0.4,
    "images_per_s": 20.0,
    "bound_by": "language",
    "missing": None,
    "processor": "SomeImageProcessor",
}


def phase(name: str, seconds: float | None, clock: str | None = "device", reason: str = "") -> Row:
    measured = seconds is not None
    return {
        "phase": name,
        "median_s": seconds,
        "ci_low_s": 0.9 * seconds if measured else None,
        "ci_high_s": 1.1 * seconds if measured else None,
        "n": 20 if measured else None,
        "share": seconds / 0.4 if measured else None,
        "clock": clock if measured else None,
        "status": "ok" if measured else "skipped",
        "reason": reason or None,
    }


MODEL_BOUND = [
    phase("processor", 0.04, "host"),
    phase("transfer", 0.01),
    phase("vision", 0.05),
    phase("language", 0.30),
]


@pytest.fixture
def told(
    simulated_gpu: Record, changed: Callable[..., Record]
) -> Callable[..., tuple[str, list[Block]]]:
    """The section of a record with these phases, as markdown and as blocks."""

    def tell(rows: list[Row], **pipeline: object) -> tuple[str, list[Block]]:
        tables = {"phases": rows, "pipeline": [PIPELINE | pipeline]}
        record = changed(simulated_gpu, "breakdown", tables=tables)
        blocks = sections()["breakdown"].compose(telling(record, []))
        return "\n\n".join(markdown.render_block(block) for block in blocks), blocks

    return tell


Told = Callable[..., tuple[str, list[Block]]]


def test_it_stands_between_the_sweeps_and_the_components() -> None:
    names = list(sections())

    assert names.index("batch-sweep") < names.index("attention-sweep") < names.index("breakdown")
    assert names.index("breakdown") < names.index("per-layer")


def test_inputs_that_take_little_are_excluded(told: Told) -> None:
    text, _ = told(MODEL_BOUND)

    assert text.startswith(
        "The image processor takes 40.0 ms [36.0, 44.0], n = 20, the transfer to the device takes "
    )
    assert "Preparing the inputs is 12.5 % of it: " in text
    assert "**preprocessing and transfer are excluded**; whatever is slow is in the model." in text
    assert "8 images in 400 ms are 20.0 images per second" in text
    assert "The longest phase is the language model; the processor is `SomeImageProcessor`." in text
    assert "what the whole forward takes beyond the tower" in text


def test_inputs_that_take_most_exclude_the_model(told: Told) -> None:
    text, _ = told(
        [phase("processor", 0.3, "host"), phase("transfer", 0.02), phase("vision", 0.08)]
    )

    assert "Preparing the inputs is 80.0 % of it: " in text
    assert "**the model is excluded as the main cost**" in text
    assert "beyond the tower" not in text


def test_in_between_nothing_is_excluded(told: Told) -> None:
    text, _ = told(
        [phase("processor", 0.1, "host"), phase("transfer", 0.02), phase("vision", 0.28)]
    )

    assert "the inputs are not excluded" in text
    assert "**" not in text.partition("\n")[0]


def test_every_phase_has_its_row_and_its_clock(told: Told) -> None:
    text, _ = told(MODEL_BOUND)

    assert "| image processor | 40.0 ms [36.0, 44.0] | 20 | 10.0 % | the host's clock |" in text
    assert "| language model | 300 ms [270, 330] | 20 | 75.0 % | the device's clock |" in text


def test_a_phase_that_is_not_there_says_why(told: Told) -> None:
    rows = [
        phase("processor", 0.04, "host"),
        phase("transfer", None, reason="nothing is transferred on a CPU"),
        phase("vision", 0.36),
    ]
    text, _ = told(rows)

    assert "| transfer to the device | not measured (skipped) | - | - | - |" in text
    assert "**transfer**: nothing is transferred on a CPU" in text
    assert "**preprocessing and transfer are excluded**" in text


def test_without_a_part_of_the_model_nothing_is_concluded(told: Told) -> None:
    text, _ = told(
        [phase("processor", 0.04, "host"), phase("vision", None, reason="out of memory")],
        missing="vision",
        images_per_s=None,
    )

    assert text.startswith("Nothing can be concluded: vision could not be timed.")
    assert "images per second" not in text


def test_the_figure_has_a_bar_for_every_phase_and_can_be_drawn(told: Told) -> None:
    _, blocks = told(MODEL_BOUND)
    figure = next(block for block in blocks if isinstance(block, Figure))

    assert figure.stem == "breakdown"
    assert plots.png(figure.draw).startswith(b"\x89PNG")


def test_without_any_time_there_is_no_figure(told: Told) -> None:
    _, blocks = told([phase("processor", None, reason="raise --budget")], missing="processor")

    assert not [block for block in blocks if isinstance(block, Figure)]


def test_a_record_without_the_stage_says_so(simulated_gpu: Record) -> None:
    blocks = sections()["breakdown"].compose(telling(simulated_gpu, []))

    assert markdown.render_block(blocks[0]).startswith("**Not measured.**")
