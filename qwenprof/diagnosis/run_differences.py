"""How two runs differ in what they ran and on what: the facts that forbid holding times together.

Each fact belongs to a name that a user can give as the point of a comparison. What only follows
from another difference, as the patches follow from the frames, needs no name of its own then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from qwenprof.diagnosis.disturbance import on_cpu
from qwenprof.diagnosis.versions import cudnn_version
from qwenprof.errors import UsageError
from qwenprof.formatting import clean
from qwenprof.record.record import Cell, Record

NOT_RECORDED = "not recorded"
LONGEST = 80

Read = Callable[[Record], Cell]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One fact that is not the same in both runs.

    name: what `across` calls it. what: the fact.
    accepted: it is the point of the comparison, or follows from it.
    follows: it follows from another difference, which is listed too.
    """

    name: str
    what: str
    base: str
    new: str
    accepted: bool
    follows: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.base} against {self.new}"


def checked_names(across: Collection[str]) -> tuple[str, ...]:
    """The names of differences that are the point, each once; a text is split at its commas.

    Raises:
        UsageError: there is no such name.
    """
    given = across.split(",") if isinstance(across, str) else across
    names = tuple(dict.fromkeys(name.strip() for name in given if name.strip()))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise UsageError(f"--across {','.join(unknown)}: choose from {', '.join(NAMES)}")
    return names


def differences(base: Record, new: Record, across: Collection[str] = ()) -> tuple[Difference, ...]:
    """Every difference between what two runs ran, and on what; `across` is as it was checked."""
    found = [
        (name, what, texts)
        for name, what, read in FACTS
        if (texts := _texts(name, read, base, new))[0] != texts[1]
    ]
    found += _settings(base, new)
    differing = {name for name, _, _ in found}
    return tuple(
        Difference(
            name=name,
            what=what,
            base=ours,
            new=theirs,
            accepted=bool({name, *(_FOLLOWS.get(name, set()) & differing)} & set(across)),
            follows=bool(_FOLLOWS.get(name, set()) & differing),
        )
        for name, what, (ours, theirs) in found
    )


def forbidding(found: Collection[Difference]) -> tuple[Difference, ...]:
    """Those of the differences that are not the point of the comparison."""
    return tuple(each for each in found if not each.accepted and not each.follows)


def _texts(name: str, read: Read, base: Record, new: Record) -> tuple[str, str]:
    if name == "cudnn" and on_cpu(base) and on_cpu(new):
        return ("", "")
    missing = "nothing" if name == "provoke" else NOT_RECORDED
    return _text(read(base), missing), _text(read(new), missing)


def _text(cell: Cell, missing: str) -> str:
    if cell is None:
        return missing
    if isinstance(cell, bool):
        return "on" if cell else "off"
    return clean(str(cell), LONGEST)


def _settings(base: Record, new: Record) -> list[tuple[str, str, tuple[str, str]]]:
    """Switches and variables that change what torch does, where both runs recorded them."""
    found = []
    for section, keys in (("torch", _SWITCHES), ("variables", _variables(base, new))):
        ours, theirs = base.environment.get(section, {}), new.environment.get(section, {})
        for key in keys:
            if key in ours and key in theirs:
                texts = _text(ours[key], "not set"), _text(theirs[key], "not set")
                if texts[0] != texts[1]:
                    found.append(("settings", clean(key, LONGEST), texts))
    return found


def _variables(base: Record, new: Record) -> list[str]:
    both = (record.environment.get("variables", {}) for record in (base, new))
    return sorted({key for section in both for key in section})


def _fact(section: str, key: str) -> Read:
    return lambda record: record.fact(section, key)


def _workload(key: str) -> Read:
    return lambda record: record.workload.get(key)


def _device(record: Record) -> Cell:
    kind = record.fact("device", "type") or record.workload.get("device")
    name = record.fact("device", "name")
    parts = [str(each) for each in (name, kind) if each is not None]
    return ", ".join(parts) or None


def _torch(record: Record) -> Cell:
    found = record.fact("torch", "version")
    return record.fact("packages", "torch") if found is None else found


def _cudnn(record: Record) -> Cell:
    cell = record.fact("torch", "cudnn_runtime")
    found = cudnn_version(cell)
    return cell if found is None else str(found)


_SWITCHES = (
    "cudnn_enabled",
    "cudnn_benchmark",
    "cudnn_deterministic",
    "cudnn_allow_tf32",
    "matmul_allow_tf32",
    "onednn_enabled",
    "float32_matmul_precision",
)
_package = partial(_fact, "packages")
# the name in `across`, the fact, how it is read; a new torch brings its CUDA, triton, torchvision
FACTS: tuple[tuple[str, str, Read], ...] = (
    ("device", "device", _device),
    ("device", "multiprocessors", _fact("device", "multiprocessors")),
    ("host", "host processor", _fact("host", "cpu")),
    ("host", "logical cores", _fact("host", "logical_cores")),
    ("threads", "threads of torch", _fact("torch", "threads")),
    ("driver", "driver", _fact("device", "driver")),
    ("torch", "torch", _torch),
    ("torch", "CUDA of torch", _fact("torch", "cuda")),
    ("torch", "HIP of torch", _fact("torch", "hip")),
    ("torch", "torchvision", _package("torchvision")),
    ("torch", "triton", _package("triton")),
    ("cudnn", "cuDNN", _cudnn),
    ("transformers", "transformers", _package("transformers")),
    ("flash-attn", "flash-attn", _package("flash-attn")),
    ("dtype", "dtype", _workload("dtype")),
    ("family", "family", _workload("family")),
    ("size", "size", _workload("size")),
    ("scope", "scope", _workload("scope")),
    ("frames", "frames", _workload("frames")),
    ("short-edge", "short edge", _workload("short_edge")),
    ("batch", "batch", _workload("batch")),
    ("patches", "patches", _workload("patches")),
    ("attention", "attention", _workload("attention")),
    ("provoke", "provoked fault", _workload("provoke")),
)
_FOLLOWS: Mapping[str, set[str]] = {
    "host": {"device"},
    "driver": {"device"},
    "threads": {"device", "host"},
    "patches": {"family", "frames", "short-edge", "batch"},
}
NAMES: tuple[str, ...] = (*dict.fromkeys(name for name, _, _ in FACTS), "settings")
