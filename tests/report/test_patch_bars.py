"""One number of patches makes no line: the comparison is then told in bars."""

from __future__ import annotations

import msgspec

from qwenprof.record.published import writeup
from qwenprof.record.record import Record
from qwenprof.report import markdown, plots
from qwenprof.report.section import Block, Figure, sections
from qwenprof.report.telling import telling
from tests.kept import kept

NAME = "compare-patch-embed"


def blocks(given: Record) -> list[Block]:
    return sections()[NAME].compose(telling(given, []))


def told(given: Record) -> str:
    return "\n\n".join(markdown.render_block(block) for block in blocks(given))


def figure(given: Record) -> Figure:
    return next(
        each
        for each in blocks(given)
        if isinstance(each, Figure) and each.stem == "compare_patch_embed"
    )


def at_the_most(given: Record) -> Record:
    """The same, measured at its largest number of patches alone."""
    stage = given.stages[NAME]
    rows = stage.tables["variants"]
    most = max(float(row["patches"] or 0) for row in rows)
    left = [row for row in rows if row["patches"] == most]
    tables = {**stage.tables, "variants": left}
    return given.with_stage(NAME, msgspec.structs.replace(stage, tables=tables))


def test_one_number_of_patches_is_drawn_as_bars() -> None:
    for given in (writeup(), at_the_most(kept("simulated_gpu"))):
        found = figure(given)
        assert found.alt.startswith("Bar chart")
        assert "ines are" not in found.caption
        assert plots.png(found.draw).startswith(b"\x89PNG")


def test_one_number_of_patches_has_no_cost_of_one_more() -> None:
    text = told(writeup())

    assert "At one number of patches nobody can tell what one more patch costs." in text
    assert "Cost of a patch" not in text


def test_several_are_drawn_as_lines() -> None:
    given = kept("simulated_gpu")

    assert "Solid lines are Conv3d" in figure(given).caption
    assert "Cost of a patch" in told(given)


def test_a_backend_is_recorded_or_not_and_never_measured() -> None:
    assert "| bf16 | 6,080 | not recorded | 16.1 s |" in told(writeup())
