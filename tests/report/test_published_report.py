"""A published record that is told itself never reads, or looks, as if it had been measured."""

from __future__ import annotations

import pytest

from qwenprof.diagnosis.finding import rules
from qwenprof.record.published import writeup
from qwenprof.report import markdown
from qwenprof.report.reading import AS_PUBLISHED, footer
from qwenprof.report.section import sections
from qwenprof.report.sections._batch_plot import grown
from qwenprof.report.telling import telling


def told(name: str) -> str:
    record = writeup()
    findings = [rule.judge(record) for rule in rules().values()]
    section = sections()[name]
    return markdown.render("", [(section, section.compose(telling(record, findings)))])


@pytest.mark.parametrize(
    "name", ["matmul", "batch-sweep", "attention-sweep", "compare-patch-embed", "appendix-modules"]
)
def test_no_method_is_claimed(name: str) -> None:
    text = told(name)
    assert AS_PUBLISHED in text
    for claim in ("random data", "timed in turn", "Times are medians", "too few samples"):
        assert claim not in text


def test_the_fit_of_the_plot_leaves_out_the_batch_that_did_not_grow() -> None:
    rows = writeup().rows("batch-sweep", "batches")
    assert [row["batch"] for row in grown(rows)] == [1, 4, 8]
    assert "Batch 16 most likely did not grow" in told("batch-sweep")


def test_bounds_of_checks_are_told_as_bounds() -> None:
    text = told("verify")
    assert "is stated as passed in 3 of 3 checks" in text
    assert "about 0.9995" in text
    assert "1.00e-07" not in text


def test_blocks_have_the_total_that_is_stated() -> None:
    text = told("per-layer")
    assert "56.4 ms" in text
    assert "timed apart" in text


def test_the_footer_has_the_date_once() -> None:
    assert footer(writeup()).count("2026-05-03") == 1
