"""Issues that others have found: which versions are exposed, and what they show when measured.

The issues are known_issues.toml. A version alone makes an issue possible; the issue is there only
if its signature, what it does to the measurements, is seen as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from qwenprof.diagnosis.signatures import SIGNATURES, Signature
from qwenprof.diagnosis.versions import cudnn_version, version, within
from qwenprof.record.record import Cell, Facts, Record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "known_issues.toml"
OF_WORKLOAD = ("dtype", "attention", "family")
Kind = Literal["slow", "wrong", "memory", "fails", "hazard"]
Exposure = Literal["affected", "not affected", "unknown"]
Environment = Mapping[str, Facts]


class Affected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions that must all hold; one that is None does not restrict.

    torch, transformers, cudnn_compiled, cudnn_runtime, compute_capability: ranges as pip has them.
    device: torch device types. cpu_capability: as torch.backends.cpu.get_cpu_capability() says.
    cpu_has, cpu_lacks: instruction sets that it must have all of, or none of, as Linux names them.
    """

    torch: str | None = None
    transformers: str | None = None
    cudnn_compiled: str | None = None
    cudnn_runtime: str | None = None
    compute_capability: str | None = None
    device: tuple[str, ...] | None = None
    cpu_capability: tuple[str, ...] | None = None
    cpu_has: tuple[str, ...] | None = None
    cpu_lacks: tuple[str, ...] | None = None
    dtype: tuple[str, ...] | None = None
    attention: tuple[str, ...] | None = None
    family: tuple[str, ...] | None = None
    cudnn_allow_tf32: bool | None = None

    def conditions(self) -> dict[str, Any]:
        """Those that restrict."""
        return {
            key: value for key, value in msgspec.structs.asdict(self).items() if value is not None
        }


class KnownIssue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One issue.

    kind: what it does. A "hazard" is met only by whoever does something, so no environment alone
        makes it possible.
    cause: why the culprit is slow or wrong, in a few words.
    signature: its name among SIGNATURES, which must be seen for the issue to be there; None for a
        hazard that nothing measured can show.
    source: where the ranges come from; note: what is not known of them.
    affected: one of them must hold.

    Raises:
        ValueError: no condition, no such range, or a link that is not https.
    """

    id: str
    kind: Kind
    title: str
    cause: str
    remedy: str
    fixed_in: str
    source: str
    links: tuple[str, ...]
    affected: tuple[Affected, ...]
    signature: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.affected or not all(each.conditions() for each in self.affected):
            raise ValueError(f"{self.id}: each [[issue.affected]] must have a condition")
        if not self.links or not all(link.startswith("https://") for link in self.links):
            raise ValueError(f"{self.id}: there must be links, all of them with https://")
        if self.signature not in SIGNATURES and not (self.kind == "hazard" and not self.signature):
            names = ", ".join(SIGNATURES)
            raise ValueError(f"{self.id}: signature {self.signature!r} is none of {names}")
        for each in self.affected:
            for key in RANGES.keys() & each.conditions().keys():
                _check_range(self.id, key, each.conditions()[key])

    @property
    def shows(self) -> Signature | None:
        """Its signature."""
        return SIGNATURES[self.signature] if self.signature else None

    @property
    def specificity(self) -> int:
        """How many conditions narrow it down."""
        return max(len(each.conditions()) for each in self.affected)


class _Issues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    issue: tuple[KnownIssue, ...]


@cache
def known_issues() -> tuple[KnownIssue, ...]:
    """All of them, as the file has them.

    Raises:
        msgspec.ValidationError: an entry breaks its form; the message says which and how.
    """
    text = resources.files("qwenprof.diagnosis").joinpath(FILE).read_text(encoding="utf-8")
    return read_issues(text)


def read_issues(text: str) -> tuple[KnownIssue, ...]:
    """The issues that a TOML text holds.

    Raises:
        msgspec.ValidationError: an entry breaks its form, or two have one id.
    """
    issues = msgspec.convert(tomllib.loads(text), _Issues).issue
    ids = [issue.id for issue in issues]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise msgspec.ValidationError(f"an id must be the only one: {', '.join(twice)}")
    return issues


def exposure(
    issue: KnownIssue,
    environment: Environment,
    dtype: str | None = None,
    workload: Facts | None = None,
) -> Exposure:
    """Whether an issue concerns this environment; a fact that is missing is never "not affected".

    Args:
        environment: as `qwenprof.record.environment.environment` gives it.
        dtype: of the workload, such as bf16. Without it and a workload the dtype is not asked for.
        workload: its facts as a record has them.
    """
    facts = {**(workload or {}), **({"dtype": dtype} if dtype else {})}
    any_dtype = dtype is None and workload is None
    answers = [_all_hold(each, environment, facts, any_dtype) for each in issue.affected]
    if True in answers:
        return "affected"
    return "unknown" if None in answers else "not affected"


def exposure_of(issue: KnownIssue, record: Record) -> Exposure:
    """The exposure of what was recorded."""
    return exposure(issue, record.environment, workload=record.workload)


def possible(environment: Environment, dtype: str | None = None) -> list[KnownIssue]:
    """The issues that an environment is exposed to, before anything was run; most specific first.

    Hazards are left out, and issues of which a fact is missing. Without a dtype those of every
    dtype are told.
    """
    found = [
        issue
        for issue in known_issues()
        if issue.kind != "hazard" and exposure(issue, environment, dtype) == "affected"
    ]
    return most_specific_first(found)


def most_specific_first(issues: list[KnownIssue]) -> list[KnownIssue]:
    """The same in the order in which they are told."""
    return sorted(issues, key=lambda issue: -issue.specificity)


def missing(issue: KnownIssue, record: Record) -> list[str]:
    """The conditions of an issue that the record cannot answer, by name."""
    every = {key: value for each in issue.affected for key, value in each.conditions().items()}
    return [
        key
        for key, value in every.items()
        if _holds(key, value, record.environment, record.workload) is None
    ]


def _check_range(issue: str, key: str, text: str) -> None:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"{issue}: {key} = {text!r} is no range such as '>=9.8,<9.15'") from error


def _all_hold(
    affected: Affected, environment: Environment, facts: Facts, any_dtype: bool
) -> bool | None:
    asked = affected.conditions()
    if any_dtype:
        asked.pop("dtype", None)
    answers = [_holds(key, value, environment, facts) for key, value in asked.items()]
    if False in answers:
        return False
    return None if None in answers else True


def _holds(key: str, wanted: Any, environment: Environment, facts: Facts) -> bool | None:
    if key in RANGES:
        found = RANGES[key](environment)
        return None if found is None else within(found, SpecifierSet(wanted))
    if key in INSTRUCTIONS:
        found_sets = environment.get("device", {}).get("instructions")
        return None if found_sets is None else INSTRUCTIONS[key](str(found_sets), wanted)
    cell = _cell(key, environment, facts)
    if cell is None:
        return None
    return cell is wanted if isinstance(wanted, bool) else cell in wanted


def _cell(key: str, environment: Environment, facts: Facts) -> Cell:
    if key in OF_WORKLOAD:
        return facts.get(key)
    device = environment.get("device", {})
    if key == "cpu_capability":
        return device.get("capability")
    if key == "cudnn_allow_tf32":
        return environment.get("torch", {}).get(key)
    return "hip" if environment.get("torch", {}).get("hip") else _device(device, facts)


def _device(device: Facts, facts: Facts) -> Cell:
    """The device's type; where it was not recorded, as the workload names it: cuda:0 is cuda."""
    named = device.get("type") or facts.get("device")
    if named is None and device.get("compute_capability") is not None:
        return "cuda"
    return named.partition(":")[0] if isinstance(named, str) else None


def _torch(environment: Environment) -> Version | None:
    recorded = environment.get("torch", {}).get("version")
    return version(recorded) or version(environment.get("packages", {}).get("torch"))


def _cudnn_runtime(environment: Environment) -> Version | None:
    return cudnn_version(environment.get("torch", {}).get("cudnn_runtime"))


def _cudnn_compiled(environment: Environment) -> Version | None:
    """That of the compiler, else of the run: torch refuses to run with an older minor version.

    It may have been compiled with an older one than it runs with; PyTorch's own wheels bring the
    one that they were compiled with.
    """
    compiled = cudnn_version(environment.get("torch", {}).get("cudnn_compiled"))
    return compiled or _cudnn_runtime(environment)


INSTRUCTIONS: dict[str, Callable[[str, tuple[str, ...]], bool]] = {
    "cpu_has": lambda found, wanted: set(wanted) <= set(found.split(", ")),
    "cpu_lacks": lambda found, wanted: not set(wanted) & set(found.split(", ")),
}
RANGES: dict[str, Callable[[Environment], Version | None]] = {
    "torch": _torch,
    "transformers": lambda environment: version(
        environment.get("packages", {}).get("transformers")
    ),
    "cudnn_compiled": _cudnn_compiled,
    "cudnn_runtime": _cudnn_runtime,
    "compute_capability": lambda environment: version(
        environment.get("device", {}).get("compute_capability")
    ),
}
