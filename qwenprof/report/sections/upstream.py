"""The same fix for transformers itself, as a diff against the version that was measured."""

from __future__ import annotations

from qwenprof.diagnosis.conv_telling import FUSION
from qwenprof.formatting import clean
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
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
from qwenprof.report.telling import Telling

STAGE, TABLE = "dispatch", "upstream"
STYLES = {"view": "The convolution stays a module", "linear": "A linear layer in its place"}
NOTES: dict[str, tuple[str, ...]] = {
    "view": (
        "Weights keep their names and shapes, so every checkpoint loads as before, in this version "
        "and in older ones, and is saved as before.",
        "What looks for an nn.Conv3d, such as an adapter or a quantizer, finds one: the new class "
        "is a subclass of it.",
        "Its parameter stays five-dimensional; the matrix product takes a view of it.",
    ),
    "linear": (
        "Checkpoints keep the shape of the convolution on disk: it is flattened on loading and "
        "given back on saving, so that either version loads what the other saved.",
        "How that is done depends on the version of transformers: 5.6 and later convert weights in "
        "a table (WeightConverter), 4.57 in the layer itself. A hook on _load_from_state_dict is "
        "not enough for transformers 5, whose from_pretrained compares shapes itself.",
        "Adapters trained on the Conv3d, such as a LoRA on proj, are not expected to load.",
        "A quantizer that replaces every nn.Linear must leave it out (modules_to_not_convert).",
    ),
}


def compose(told: Telling) -> list[Block]:
    record = told.record
    rows = record.rows(STAGE, TABLE)
    diffs = [row for row in rows if isinstance(row.get("diff"), str) and row["diff"]]
    blocks = [block for row in diffs for block in _diff(record, row)]
    if not diffs:
        blocks = _without_diff(record, rows)
    return [*blocks, *_left_out(rows), *_own_fusion(record)]


def _diff(record: Record, row: Row) -> list[Block]:
    style = str(row.get("style"))
    head = STYLES.get(style, f"Style {clean(style, 100)}")
    version = record.fact("packages", "transformers")
    which = f"transformers {clean(str(version), 100)}" if version else "the installed transformers"
    notes = tuple((note,) for note in NOTES.get(style, ()))
    return [
        paragraph(strong(f"{head}."), f" Against {which}, as measured:"),
        Code(text=str(row["diff"]).rstrip("\n"), language="diff"),
        *([Bullets(items=notes)] if notes else []),
    ]


def _without_diff(record: Record, rows: list[Row]) -> list[Block]:
    """Why there is no diff, and the command that writes one."""
    family = str(record.workload.get("family") or "")
    asked = clean(family, 100) if family.replace("-", "").replace(".", "").isalnum() else "FAMILY"
    styles: list[tuple[Inline, ...]] = [
        (code(style), f": {head[0].lower()}{head[1:]}. ", " ".join(NOTES[style]))
        for style, head in STYLES.items()
    ]
    return [
        paragraph(
            strong("No diff was recorded."),
            f" {_why(record, rows)} Against the transformers that is installed, this writes it:",
        ),
        Code(
            text="\n".join(
                f"qwenprof upstream-diff --family {asked} --style {style} > {style}.patch"
                for style in STYLES
            ),
            language="sh",
        ),
        Bullets(items=tuple(styles)),
    ]


def _why(record: Record, rows: list[Row]) -> str:
    if rows:
        return "The transformers that was measured has no place for it that is known."
    if is_published(record):
        return (
            "The record is made of published figures; the source of these proposes a linear layer "
            "with a hook that reshapes old checkpoints."
        )
    if STAGE not in record.stages:
        return "Stage dispatch, which writes it, did not run."
    if record.stages[STAGE].status != "ok":
        return "Stage dispatch, which writes it, did not get to it."
    return "Either the model is not one of transformers, or it was measured with an older qwenprof."


def _left_out(rows: list[Row]) -> list[Block]:
    """Files and styles for which there is no diff, with the reason."""
    items: list[tuple[Inline, ...]] = [
        (
            strong(clean(str(row.get("files") or row.get("family") or "?"), 200)),
            f", style {clean(str(row.get('style')), 100)}: {row['reason']}",
        )
        for row in rows
        if row.get("reason") is not None
    ]
    return [paragraph("Left as it is:"), Bullets(items=tuple(items))] if items else []


def _own_fusion(record: Record) -> list[Block]:
    return [
        paragraph(
            strong("What transformers has already."),
            " Since 5.6.0 it can fuse the patch embedding on loading (",
            code("fusion_config"),
            f", {FUSION}). That has to be asked for, holds for the whole process, and finds only a "
            "module patch_embed with a Conv3d proj. With these diffs nobody has to know of it.",
        )
    ]


SECTION = Section(name="upstream", order=88, title="The same fix upstream", compose=compose)
