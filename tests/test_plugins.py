"""One contract for every plug-in, whatever `discover` finds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenprof.diagnosis.finding import Rule, not_assessed, rules
from qwenprof.discover import discover
from qwenprof.errors import PluginError
from qwenprof.record.record import Record, Tool
from qwenprof.report.section import Section, sections
from qwenprof.report.telling import telling
from qwenprof.stages.stage import Stage, stages
from qwenprof.workload.family import Family
from qwenprof.workload.workload import families

NAME = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
EMPTY = Record(
    tool=Tool(name="qwenprof", version="0"),
    created="2026-01-01T00:00:00+00:00",
    command=[],
    environment={},
    workload={},
)


@pytest.mark.parametrize("stage", stages().values(), ids=lambda stage: stage.name)
def test_a_stage_keeps_the_contract(stage: Stage) -> None:
    assert NAME.fullmatch(stage.name)
    assert stage.question.endswith("?")
    assert stage.suspect
    assert stage.budget_s > 0
    assert stage.example.startswith(f"qwenprof {stage.name}")
    assert set(stage.requires) <= set(stages())
    assert all(stages()[name].order < stage.order for name in stage.requires)


@pytest.mark.parametrize("rule", rules().values(), ids=lambda rule: rule.name)
def test_a_rule_keeps_the_contract(rule: Rule) -> None:
    """Without any input, a rule must not clear anything."""
    finding = rule.judge(EMPTY)

    assert NAME.fullmatch(rule.name)
    assert rule.question.endswith("?")
    assert finding.rule == rule.name
    assert finding.verdict == "not assessed"
    assert finding.evidence
    assert set(rule.reads) <= set(stages())


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_a_family_keeps_the_contract(family: Family) -> None:
    assert NAME.fullmatch(family.name)
    assert family.sizes
    assert family.merged_patches >= 1


@pytest.mark.parametrize("section", sections().values(), ids=lambda section: section.name)
def test_a_section_keeps_the_contract(section: Section) -> None:
    """Without any input, a section says that nothing was measured instead of failing."""
    findings = [not_assessed(rule.name, rule.question, "nothing ran") for rule in rules().values()]

    assert section.compose(telling(EMPTY, findings))


def test_no_two_plugins_share_a_place_in_the_order() -> None:
    for found in (stages(), rules(), families(), sections()):
        orders = [plugin.order for plugin in found.values()]  # type: ignore[attr-defined]
        assert orders == sorted(set(orders))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package `some_rules` to put plug-in files into."""
    folder = tmp_path / "some_rules"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("some_rules")]:
        del sys.modules[name]


GOOD = """
from qwenprof.diagnosis.finding import Rule, not_assessed
RULE = Rule(name="good", order=1, question="Good?", judge=lambda r: not_assessed("good", "", ""))
"""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("import no_such_module", "no_such_module"),
        ("RULE = 3", "is a int, it must be a Rule"),
        ("", "RULE"),
        ("def broken(:", "invalid syntax"),
        (GOOD, "'good' is taken"),
    ],
)
def test_a_broken_plugin_fails_loudly(package: Path, content: str, complaint: str) -> None:
    (package / "good.py").write_text(GOOD)
    (package / "one.py").write_text(content)

    with pytest.raises(PluginError, match=complaint) as error:
        discover("some_rules", "RULE", Rule)

    assert "some_rules.one" in str(error.value)
