"""Does the diagnosis name what is wrong, and nobody where nothing is?

Claims
  named       Every planted fault is named: a rule that is about it finds a problem and accuses
              the right part.
  verdict     The verdict, which is one answer from all findings, is about what was planted; where
              that only disturbs the run, it accuses no part of the model.
  controls    Nobody is accused in a control, which is a whole tower without a fault. A control
              is cleared where it was found that no part stands out; where noise forbids to tell,
              it is only not accused.
  beside      Where a fault is planted, nothing else is accused, but a convolution that loses to
              Linear: that is true of every tower on a CPU, and with few blocks it counts.

How to read it
  Faults are planted in real Qwen3-VL and Qwen2.5-VL towers of the published width (with fewer
  blocks, to save time), and on a simulated GPU. Every case goes through the real stages and rules,
  with another seed in each repetition. A run that qwenprof itself calls disturbed is taken again,
  as its advice says, three times at most; how often that was is printed. An accusation is a problem
  that is more than a remark. What is true of every run on this machine (that its Conv3d loses to
  Linear by less than it would matter, that the machine was busy) accuses nobody.

    python benchmarks/diagnosis_accuracy.py --repetitions 5
    python benchmarks/diagnosis_accuracy.py --only merger
    python benchmarks/diagnosis_accuracy.py --again     the kept records, judged by today's rules
    python benchmarks/diagnosis_accuracy.py --resume    what is kept is not measured a second time
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _accuracy_cases import CONV, NOBODY, Case, cases, run
from _common import RESULTS, Claim, checked, conclude, environment_line, parser

from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.diagnosis.verdict import ASIDE_RULES, Verdict, same_part, verdict
from qwenprof.record.record import Record, load, save

RUN_QUALITY, MOST_RUNS = "run-quality", 3
NO_ACCUSATION = (RUN_QUALITY,)  # about the run and not about the model
CONV_RULES = ("conv-slow-backend", "conv-against-linear", "bias-cliff", "known-issue", "culprit")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one case in one repetition.

    named_by: the rule that found the planted fault, "" if none did.
    false: problems that accuse something that is not at fault.
    cleared: whether it was found that no part stands out, and not only left open.
    runs: how often it was measured until nothing disturbed it.
    """

    case: Case
    seed: int
    named_by: str
    false: tuple[Finding, ...]
    verdict: Verdict
    took_s: float
    cleared: bool = False
    runs: int = 1

    @property
    def verdict_is_right(self) -> bool | None:
        """Whether the verdict is about what was planted; None for a control.

        What disturbs the run is no part of the model, so then it has to accuse none.
        """
        if self.case.is_control:
            return None
        if set(self.case.rules) & set(ASIDE_RULES):
            return self.verdict.culprit is None
        named = bool(set(self.verdict.rules) & set(self.case.rules))
        return named or same_part(self.case.culprit, self.verdict.culprit)

    @property
    def is_right(self) -> bool:
        return not self.false and (self.case.is_control or bool(self.named_by))


def measured(case: Case, seed: int, keep: Path) -> tuple[Record, int]:
    """Run a case until nothing disturbs it and keep its record; with how often it was run."""
    folder, runs = _folder(keep, case, seed), 1
    folder.mkdir(parents=True, exist_ok=True)
    record = run(case, seed)
    while runs < MOST_RUNS and RUN_QUALITY not in case.rules and _is_disturbed(record):
        save(record, folder / f"disturbed-{runs}.json")
        record, runs = run(case, seed), runs + 1
    save(record, folder / "record.json")
    return record, runs


def _is_disturbed(record: Record) -> bool:
    """Whether the diagnosis itself says that the times of the run cannot be trusted."""
    quality = next(each for each in diagnose(record) if each.rule == RUN_QUALITY)
    return quality.verdict == "problem" and quality.severity != "info"


def _folder(keep: Path, case: Case, seed: int) -> Path:
    return keep / f"{case.name.replace(' ', '-').replace(':', '')}-{seed}"


def outcome(case: Case, seed: int, record: Record, took_s: float, runs: int = 1) -> Outcome:
    """The findings of a record, held against what was planted."""
    findings = diagnose(record)
    problems = [each for each in findings if each.verdict == "problem"]
    right = [each for each in problems if _names(case, each)]
    false = [each for each in problems if each.severity != "info" and _is_false(case, each)]
    return Outcome(
        case=case,
        seed=seed,
        named_by=right[0].rule if right else "",
        false=tuple(false),
        verdict=verdict(record, findings),
        took_s=took_s,
        cleared=any(each.rule == "culprit" and each.verdict == "clear" for each in findings),
        runs=runs,
    )


def _names(case: Case, finding: Finding) -> bool:
    is_remark = finding.severity == "info"
    right_part = not case.culprit or same_part(case.culprit, finding.culprit)
    return not is_remark and finding.rule in case.rules and right_part


def _is_false(case: Case, finding: Finding) -> bool:
    """A problem with something that is not at fault.

    Several rules may find the same fault. Those about the run itself accuse nobody, and neither
    does a remark. That the convolution loses to Linear is true of any tower on a CPU; with few
    blocks beside it that counts for more than a remark, so it is held against controls alone,
    which have all of theirs.
    """
    if finding.rule in (*NO_ACCUSATION, *case.rules, *case.also_true):
        return False
    if finding.rule == "conv-against-linear" and case.depth is not None:
        return False
    if case.culprit == CONV and finding.rule in CONV_RULES:
        return CONV.partition(".")[0] not in (finding.culprit or CONV)
    return not same_part(case.culprit, finding.culprit)


def confusion(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Planted against named: a row a case, a column a rule that was right or wrong in any."""
    rows = []
    for name in dict.fromkeys(each.case.name for each in outcomes):
        own = [each for each in outcomes if each.case.name == name]
        named = Counter(each.named_by or NOBODY for each in own)
        false = Counter(finding.rule for each in own for finding in each.false)
        rows.append(
            {
                "planted": name,
                "cases": len(own),
                "runs": sum(each.runs for each in own),
                "right": sum(each.is_right for each in own),
                "named by": _counted(named) if not own[0].case.is_control else "-",
                "falsely accused by": _counted(false) or "-",
                "cleared": sum(each.cleared for each in own) if own[0].case.is_control else "-",
                "verdict's culprit": _counted(
                    Counter(each.verdict.culprit or NOBODY for each in own)
                ),
            }
        )
    return rows


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counter.most_common())


def claims(outcomes: Sequence[Outcome]) -> list[Claim]:
    faults = [each for each in outcomes if not each.case.is_control]
    controls = [each for each in outcomes if each.case.is_control]
    missed = [_name(each) for each in faults if not each.named_by]
    accused = [f"{finding.rule} in {_name(each)}" for each in outcomes for finding in each.false]
    told = [each for each in faults if each.verdict_is_right is not None]
    strayed = [_name(each) for each in told if not each.verdict_is_right]
    in_controls = [each for each in controls if each.false]
    cleared = sum(each.cleared for each in controls)
    return [
        checked(
            "every planted fault is named, with the right part",
            not missed,
            f"{len(faults) - len(missed)} of {len(faults)}" + _list(missed),
        ),
        checked(
            "the verdict is about what was planted",
            not strayed,
            f"{len(told) - len(strayed)} of {len(told)}" + _list(strayed),
        ),
        checked(
            "nobody is accused in a control",
            not in_controls,
            f"{len(controls) - len(in_controls)} of {len(controls)} clean; {cleared} of them found "
            "healthy, the others left open",
        ),
        checked(
            "nothing is accused beside a planted fault but a convolution that loses to Linear",
            not [each for each in faults if each.false],
            f"{len(faults) - sum(bool(each.false) for each in faults)} of {len(faults)} clean"
            + _list(accused),
        ),
    ]


def _name(found: Outcome) -> str:
    return f"{found.case.name} (seed {found.seed})"


def _list(items: Sequence[str]) -> str:
    return f"; {', '.join(items)}" if items else ""


def main() -> int:
    arguments = _arguments()
    chosen = [case for case in cases() if arguments.only in case.name]
    if not chosen:
        print(f"no case has {arguments.only!r} in its name", file=sys.stderr)
        return 2
    outcomes: list[Outcome] = []
    try:
        for seed in range(arguments.repetitions):
            for case in chosen:
                started_s = time.perf_counter()
                record, runs = _record(case, seed, arguments)
                found = outcome(case, seed, record, time.perf_counter() - started_s, runs)
                outcomes.append(found)
                print(_line(found), flush=True)
    except KeyboardInterrupt:
        print("interrupted: what follows is of the cases so far", file=sys.stderr)
    return conclude(
        "diagnosis_accuracy",
        environment_line("cpu"),
        confusion(outcomes),
        claims(outcomes),
        arguments.out,
        {"outcomes": [_sample(each) for each in outcomes]},
    )


def _record(case: Case, seed: int, arguments: argparse.Namespace) -> tuple[Record, int]:
    folder = _folder(arguments.keep, case, seed)
    runs = 1 + len(list(folder.glob("disturbed-*.json")))
    if arguments.again:
        return load(folder), runs
    if arguments.resume and (folder / "record.json").exists():
        kept = load(folder)
        if RUN_QUALITY in case.rules or not _is_disturbed(kept):
            return kept, runs
    return measured(case, seed, arguments.keep)


def _line(found: Outcome) -> str:
    mark = "right" if found.is_right else "WRONG"
    false = "".join(f"; accuses {each.rule}: {each.title}" for each in found.false)
    named = found.named_by or NOBODY
    again = f" (run {found.runs})" if found.runs > 1 else ""
    return (
        f"{mark}  seed {found.seed}  {found.took_s:5.1f} s  {found.case.name}{again}: "
        f"{named}{false}"
    )


def _sample(found: Outcome) -> dict[str, Any]:
    return {
        "case": found.case.name,
        "seed": found.seed,
        "named_by": found.named_by,
        "false": [f"{each.rule}: {each.title}" for each in found.false],
        "headline": found.verdict.headline,
        "culprit": found.verdict.culprit,
        "cleared": found.cleared,
        "took_s": found.took_s,
        "runs": found.runs,
    }


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--repetitions", type=int, default=1, help="each with another seed")
    made.add_argument("--only", default="", help="cases whose name has this in it")
    made.add_argument(
        "--keep", type=Path, default=RESULTS / "diagnosis_accuracy", help="folder for the records"
    )
    made.add_argument(
        "--again", action="store_true", help="judge kept records anew, without measuring"
    )
    made.add_argument(
        "--resume", action="store_true", help="measure only what has no undisturbed record yet"
    )
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
