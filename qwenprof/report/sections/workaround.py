"""What to do today: the fix for any program, in a program, or pasted into it."""

from __future__ import annotations

from packaging.version import Version

from qwenprof.diagnosis.conv_telling import FUSION
from qwenprof.diagnosis.rules.known_issue import sort
from qwenprof.diagnosis.verdict import verdict
from qwenprof.diagnosis.versions import version
from qwenprof.formatting import clean
from qwenprof.record.record import Record
from qwenprof.report.section import (
    Block,
    Bullets,
    Code,
    Inline,
    Section,
    code,
    paragraph,
    strong,
)
from qwenprof.report.sections._convolution import Convolution, convolution, is_blamed
from qwenprof.report.telling import Telling

FUSION_SINCE = Version("5.6.0")
FUSION_CONFIG = 'fusion_config={"patch_embeddings": True}'
OF_THE_LIBRARIES = ("slow", "wrong", "memory", "fails")  # kinds of issue that a release can mend
REPLACED = "Conv3d"  # all that qwenprof's own fix replaces

PATCH = """\
from torch import nn
from torch.nn import functional as F


def run_as_linear(conv_class):
    convolve = conv_class._conv_forward
    if hasattr(convolve, "runs_as_linear"):
        return

    def _conv_forward(self, x, weight, bias):
        kernel, axes = self.kernel_size, len(self.kernel_size)
        first = x.dim() - axes
        apart = self.stride == kernel and self.padding == (0,) * axes and max(kernel) > 1
        apart = apart and self.dilation == (1,) * axes and self.groups == 1
        if not apart or first not in (1, 2) or any(n < k for n, k in zip(x.shape[first:], kernel)):
            return convolve(self, x, weight, bias)
        for axis, size in enumerate(kernel, start=first):
            x = x.unfold(axis, size, size)
        windows = x.movedim(first - 1, first - 1 + axes).flatten(first - 1 + axes)
        y = F.linear(windows, weight.flatten(1), bias)
        return y.movedim(-1, first - 1).contiguous()

    _conv_forward.runs_as_linear = True
    conv_class._conv_forward = _conv_forward


run_as_linear(nn.{kind})
"""


def compose(told: Telling) -> list[Block]:
    record, conv = told.record, convolution(told.record)
    kind = conv.kind if conv else REPLACED
    return [
        _whether(told, conv),
        *_with_qwenprof(kind),
        *_with_transformers(record),
        *_with_other_versions(record),
        *_pasted_in(kind),
    ]


def pasted_patch(kind: str) -> str:
    """The patch for Conv1d, Conv2d or Conv3d as text, for a program without qwenprof."""
    return PATCH.format(kind=kind)


def _whether(told: Telling, conv: Convolution | None) -> Block:
    """Whether there is anything to work around, as far as the record tells."""
    if conv is None:
        return paragraph(
            "No convolution of this kind was recorded, so whether there is anything to work "
            "around is not known here. This is what there is for one:"
        )
    said = verdict(told.record, told.findings)
    if said.is_open:
        return paragraph(
            strong("Whether the convolution is what makes this model slow is not known."),
            " The verdict says why; what follows is for where it is.",
        )
    if not is_blamed(said, conv):
        return paragraph(
            strong("The convolution is not what makes this model slow here."),
            " Nothing has to be worked around; what follows is for a machine where it has.",
        )
    gain = f" What it gains: {said.gain}." if said.gain else ""
    return paragraph("Any one of these is enough.", gain)


def _with_qwenprof(kind: str) -> list[Block]:
    if kind != REPLACED:
        return [
            paragraph(
                code("qwenprof run"),
                " and ",
                code("qwenprof.apply_fix()"),
                f" replace nn.{REPLACED} alone. For this nn.{kind} there is the patch below.",
            )
        ]
    return [
        paragraph(
            strong("Any program, unchanged."), " Its own command line follows that of qwenprof:"
        ),
        Code(text="qwenprof run SCRIPT [ARGS...]\nqwenprof run -m MODULE [ARGS...]", language="sh"),
        paragraph(strong("In a program,"), " before or after the model is built:"),
        Code(
            text="import qwenprof\n\nqwenprof.apply_fix()  # undo_fix() takes it back\n\n"
            "with qwenprof.fixed():  # or for a while\n    ...",
            language="python",
        ),
    ]


def _with_transformers(record: Record) -> list[Block]:
    """transformers' own fusion, where the recorded version has it, and what to beware of."""
    recorded = record.fact("packages", "transformers")
    found = version(recorded)
    head = strong("With transformers alone.")
    if found is None:
        told = "Which transformers ran was not recorded"
    elif found < FUSION_SINCE:
        told = f"The transformers that ran, {clean(str(recorded), 100)}, has no such option"
    else:
        return [
            paragraph(
                head, f" {clean(str(recorded), 100)} can replace the convolution on loading:"
            ),
            Code(
                text=f"model = MODEL_CLASS.from_pretrained(CHECKPOINT, {FUSION_CONFIG})",
                language="python",
            ),
            Bullets(items=_hazards()),
        ]
    return [
        paragraph(head, f" {told}: from 5.6.0 on, ", code(FUSION_CONFIG), " does it on loading."),
        Bullets(items=_hazards()),
    ]


def _hazards() -> tuple[tuple[Inline, ...], ...]:
    """Seen with transformers 5.23.0; see known_issues.toml."""
    return (
        (
            "It holds for the whole process: a later from_pretrained without it is fused too. "
            "To compare both, use two processes.",
        ),
        (
            "Parameters change their names in memory (proj becomes linear_proj), which adapters, "
            "optimizers and hooks that look for a name will notice.",
        ),
        ("It is saved in the model's config, and so is in force wherever that is loaded.",),
        (
            "It looks for a module patch_embed with a Conv3d proj. MiniMax-M3-VL, VideoMAE, ViViT, "
            "V-JEPA 2 and VideoPrism have none.",
        ),
        (f"Source: {FUSION}",),
    )


def _with_other_versions(record: Record) -> list[Block]:
    """Releases that mend it, where a known issue was seen in what was measured."""
    head = strong("With other versions of PyTorch or cuDNN.")
    if not record.environment:
        return [
            paragraph(head, " No versions were recorded, so no known issue could be looked up.")
        ]
    found = sort(record)
    seen = [issue for issue in found.matches if issue.kind in OF_THE_LIBRARIES]
    if seen:
        items: list[tuple[Inline, ...]] = [
            (strong(issue.title), f": fixed in {issue.fixed_in}. {issue.remedy}") for issue in seen
        ]
        return [paragraph(head, " These known issues were seen here:"), Bullets(items=tuple(items))]
    if found.open:
        names = ", ".join(issue.id for issue in found.open)
        said = f" These known issues may be there, but were not looked for: {names}."
        return [paragraph(head, said)]
    return [paragraph(head, " No known issue was seen that another release would mend.")]


def _pasted_in(kind: str) -> list[Block]:
    return [
        paragraph(
            strong("Without qwenprof."), " Paste this into a program; it needs PyTorch alone:"
        ),
        Code(text=pasted_patch(kind), language="python"),
        paragraph("What it does, and what it leaves alone:"),
        Bullets(items=_properties(kind)),
    ]


def _properties(kind: str) -> tuple[tuple[Inline, ...], ...]:
    """Each is held by a test that runs the text above."""
    return (
        (
            strong("Exact."),
            " The same products of the same weights; only the order of additions differs.",
        ),
        (
            strong("No parameter is touched."),
            " A contiguous weight is viewed, not copied; state_dict, checkpoints and optimizers "
            "stay as they are.",
        ),
        (
            strong("Training works."),
            " Gradients reach the convolution's own weight and bias, in their own shapes.",
        ),
        (strong("Applying it twice is harmless."), " The second time does nothing."),
        (
            strong("Models built before are reached too,"),
            f" since it stands on the class nn.{kind}, and hooks on a module still run.",
        ),
        (
            strong("All other convolutions run as before:"),
            " those whose windows overlap, with padding, dilation or groups, and pointwise ones.",
        ),
        (
            strong("Inputs of one sample or of many,"),
            " cut into windows or not; what fills no window is dropped, as by a convolution.",
        ),
    )


SECTION = Section(name="workaround", order=87, title="The workaround", compose=compose)
