"""The options of the command line: what they are called, what they mean, how they complete."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenprof.errors import UsageError
from qwenprof.stages.stage import stages
from qwenprof.workload.workload import ATTENTIONS, DTYPES, PROVOCATIONS, SCOPES, Workload, families

REPORTS = Path("qwenprof-reports")


def _choices(read: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """Tab completion from a list that is only made when somebody presses tab."""
    return lambda incomplete: [value for value in read() if value.startswith(incomplete)]


def _family_names() -> list[str]:
    return list(families())


def _size_names() -> list[str]:
    return sorted({size for family in families().values() for size in family.sizes})


def _option(help_text: str, *names: str, complete: Sequence[str] | Any = None) -> Any:
    read = complete if callable(complete) else lambda: complete
    return typer.Option(
        *names,
        help=help_text,
        show_default=False,
        autocompletion=_choices(read) if complete else None,
    )


FamilyOption = Annotated[
    str | None,
    _option(
        "Model family: qwen3-vl or qwen2.5-vl. [dim](default: qwen3-vl)[/]", complete=_family_names
    ),
]
SizeOption = Annotated[
    str | None,
    _option(
        "Published size, such as 2b, 4b or 8b. [dim](default: the family's, 4b)[/]",
        complete=_size_names,
    ),
]
ScopeOption = Annotated[
    str | None,
    _option(
        "vision: the tower; full: the whole prefill. [dim](default: by device)[/]", complete=SCOPES
    ),
]
DeviceOption = Annotated[
    str | None,
    _option(
        "Torch device. [dim](default: the accelerator, else cpu)[/]",
        complete=("cpu", "cuda", "mps"),
    ),
]
DtypeOption = Annotated[
    str | None, _option("bf16, fp16 or fp32. [dim](default: bf16)[/]", complete=DTYPES)
]
FramesOption = Annotated[
    int | None, _option("Images in one sample. [dim](default: 8 on an accelerator, 1 on a CPU)[/]")
]
ShortEdgeOption = Annotated[
    int | None, _option("Pixels of a frame's shorter side. [dim](default: 336)[/]")
]
BatchOption = Annotated[int | None, _option("Samples in one forward. [dim](default: 1)[/]")]
AttentionOption = Annotated[
    str | None,
    _option("eager, sdpa or flash_attention_2. [dim](default: sdpa)[/]", complete=ATTENTIONS),
]
ProvokeOption = Annotated[
    str | None,
    _option(
        "Make a fault on purpose: slow-conv runs every Conv3d without cuDNN or oneDNN.",
        complete=PROVOCATIONS,
    ),
]
SeedOption = Annotated[int | None, _option("Of weights, pixels and tokens. [dim](default: 0)[/]")]
StagesOption = Annotated[
    str | None,
    _option(
        "Comma-separated stages to run in place of the command's own.",
        complete=lambda: list(stages()),
    ),
]
BudgetOption = Annotated[
    float | None,
    _option(
        "Seconds of measuring; building the model and first calls come on top. "
        "[dim](default: each stage's own)[/]"
    ),
]
OutOption = Annotated[Path | None, _option("Folder for the results; made if missing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone.")]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Keep a line of everything that is done.")
]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print the path of the report, alone.")
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="Comma-separated: md, html (one file), ticket (what to file as an issue).",
        autocompletion=_choices(lambda: ("md", "html", "ticket")),
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--for",
        help="The project whose form the ticket has: transformers, pytorch or vllm.",
        autocompletion=_choices(lambda: ("transformers", "pytorch", "vllm")),
    ),
]
AgainstOption = Annotated[
    str | None,
    _option(
        "A record whose figures stand beside, writeup for the published ones, none for no other. "
        "[dim](default: writeup, for a Qwen model)[/]"
    ),
]
SamplesOption = Annotated[
    int,
    typer.Option("--samples", help="Samples of the dataset that times are projected to.", min=1),
]
RedactOption = Annotated[
    bool,
    typer.Option(
        "--redact/--no-redact",
        help="Take out paths, users, hosts, addresses, serial numbers and secrets.",
    ),
]


def _run_argument(name: str) -> Any:
    text = "A record.json, the folder that holds one, or writeup: the published figures."
    return typer.Argument(help=text, metavar=name)


RecordArgument = Annotated[Path, _run_argument("RECORD")]
BaseArgument = Annotated[Path, _run_argument("BASE")]
NewArgument = Annotated[Path, _run_argument("NEW")]
FailOnOption = Annotated[
    str | None,
    _option(
        "Exit with 1 if anything became slower, or different at all.",
        complete=("slower", "different"),
    ),
]
MinChangeOption = Annotated[
    str, typer.Option("--min-change", help="Least change that counts: 3% or 0.03.")
]
RunToRunOption = Annotated[
    str | None,
    _option(
        "How far runs of the same thing lie apart on this machine. "
        "[dim](default: 100% on a host's cores, 0 on an accelerator)[/]"
    ),
]
AcrossOption = Annotated[
    str, _option("Comma-separated differences that are the point: torch, cudnn, provoke, ...")
]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A measuring command as it was asked for; None is a default."""

    name: str
    device: str | None
    options: dict[str, Any]
    stages: Sequence[str] | None
    budget_s: float | None
    out: Path | None

    def command(self) -> list[str]:
        """The command that measures the same again; without paths, which may be private."""
        given = {"device": self.device, **self.options, "budget": self.budget_s}
        if self.stages and list(self.stages) != [self.name]:
            given["stages"] = ",".join(self.stages)
        pairs = [(f"--{key.replace('_', '-')}", v) for key, v in given.items() if v is not None]
        return ["qwenprof", self.name, *(str(part) for pair in pairs for part in pair)]


def check_out(out: Path | None) -> None:
    """Refuse an output folder that cannot be used, before anything is measured."""
    if out is None:
        return
    if os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(f"--out {out}: is a file, not a folder; give a folder")
    for name in ("record.json", "report.md"):
        if os.path.exists(out / name):
            raise UsageError(f"--out {out}: already holds a {name}; give another folder")


def output_folder(out: Path | None, workload: Workload) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    device = workload.device.replace(":", "")
    fresh = REPORTS / f"{stamp}-{device}-{workload.family}-{workload.size}"
    folder = out or _unused(fresh)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {folder}: {why(error)}; give a folder you can write") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder}: is not writable; give a folder you can write")
    return folder


def why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _unused(folder: Path) -> Path:
    """The folder, or the first of its numbered siblings that does not exist."""
    candidates = (folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())
