"""Whose fault it is, as the report tells it."""

from __future__ import annotations

import msgspec
import pytest
from markdown_it import MarkdownIt

from qwenprof.diagnosis.finding import diagnose
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Row, StageResult
from qwenprof.report import markdown
from qwenprof.report.section import Table, sections
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed
from tests.diagnosis.convolutions import GATED, HEALTHY_CPU, MODULE, compared, pair, row
from tests.diagnosis.handmade import record
from tests.report.conftest import HOSTILE


def told(given: Record) -> str:
    blocks = sections()["dispatch"].compose(telling(given, diagnose(given)))
    return "\n\n".join(markdown.render_block(block) for block in blocks)


def tables(given: Record) -> list[Table]:
    blocks = sections()["dispatch"].compose(telling(given, []))
    return [block for block in blocks if isinstance(block, Table)]


def table(given: Record, first: str) -> dict[str, str]:
    """The rows of the table whose header begins so: first cell -> the others."""
    found = next(each for each in tables(given) if each.header[0] == first)
    lines = markdown.render_block(found).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    return {each[0]: " | ".join(each[1:]) for each in cells}


@pytest.fixture
def gated() -> Record:
    """The published kind, with every experiment that separates the layers."""
    variants = [
        *pair("SlowDilated3d", 16.1, 0.0003),
        row("bias apart", 0.04, 402.0, backend="SlowDilated3d"),
        row("channels_last_3d", 0.006, 2683.0, backend="Cudnn"),
        row("cudnn_convolution", 0.002, 8050.0, backend="Cudnn"),
        row("slow_conv_dilated3d", 16.2, 0.99, backend="SlowDilated3d"),
        row("lazy swap", 0.0003, 53_000.0, backend="GEMM"),
    ]
    given = compared(variants, torch=GATED, forward_s=16.4, latency_s=2.5e-6)
    backends: Row = {
        "module_type": "Conv3d",
        "patches": 6080,
        "backend": "SlowDilated3d",
        "backend_channels_last": "Cudnn",
        "backend_fp32": "Cudnn",
    }
    row_ = given.rows("dispatch", "convolutions")[0] | backends
    return given.with_stage(
        "dispatch",
        StageResult(status="ok", duration_s=1.0, tables={"convolutions": [row_]}),
    )


def test_who_is_at_fault_comes_first(gated: Record) -> None:
    assert told(gated).startswith(
        "**At fault for the projection: PyTorch.** It costs 98.2 % of the forward."
    )


def test_every_layer_has_its_part_and_its_evidence(gated: Record) -> None:
    rows = table(gated, "Layer")

    assert list(rows) == ["model code", "PyTorch", "cuDNN"]
    assert rows["model code"].startswith("could fix | It runs a linear map of disjoint windows")
    assert rows["PyTorch"].startswith("**AT FAULT** | It passes the library over")
    assert rows["cuDNN"] == "clear | cuDNN is never called for it. | -"


def test_no_evidence_is_cut_short_and_none_is_told_twice(gated: Record) -> None:
    text = told(gated)

    assert "…" not in text
    assert "away from bf16 Conv3d." in table(gated, "Layer")["PyTorch"]
    assert text.count("- **PyTorch and cuDNN**: cudnn_convolution: 8,050 x as fast (Cudnn).") == 1
    assert "- **PyTorch**: cuDNN is passed over where all of this holds, and it does" in text


def test_the_gate_is_told_condition_by_condition(gated: Record) -> None:
    gate = tables(gated)[3]
    text = markdown.render_block(gate)

    assert "cuDNN is passed over for model.visual.patch_embed.proj where all of these hold" in text
    assert "They do: it is passed over." in text
    assert "| the weight has five dimensions | 5 | holds |" in text
    assert "| this torch has the gate: 2.9 | 2.9.0+cu128 | holds |" in text
    assert "| cuDNN at compile time is 9.8 or newer | 9.10.2 | holds |" in text


def test_a_condition_that_fails_or_is_not_known_reads_so() -> None:
    failing = compared(
        pair("Cudnn", 0.004, 0.001), torch=GATED, convolution={"memory_format": "channels_last_3d"}
    )
    unknown = compared(pair("Cudnn", 0.004, 0.001), torch={"cudnn_enabled": True})

    assert "| the memory format is contiguous | channels_last_3d | does not hold |" in told(failing)
    assert "They do not: this gate is open." in told(failing)
    assert "| this torch has the gate: 2.9 | not recorded | not known |" in told(unknown)
    assert "Whether they do is not known." in told(unknown)


def test_the_backends_are_one_row_for_each_convolution(gated: Record) -> None:
    rows = table(gated, "Convolution")

    assert rows[f"`{MODULE}`"] == (
        "Conv3d | bf16 | 2x16x16 | 6,080 | **SlowDilated3d** | not recorded | not recorded | "
        "Cudnn | not recorded | not recorded | Cudnn"
    )


def test_each_experiment_says_what_it_tells_of(gated: Record) -> None:
    rows = table(gated, "Experiment")

    assert list(rows) == [
        "Conv3d",
        "Linear",
        "bias apart",
        "channels_last_3d",
        "cudnn_convolution",
        "slow_conv_dilated3d",
    ]
    assert rows["Linear"].startswith("the model's code | GEMM | 6,080 | 300 us | 20 | 53,7")
    assert rows["cudnn_convolution"].startswith("the library, past PyTorch's dispatcher | Cudnn")
    assert rows["bias apart"].endswith("402 x [394, 410]")


def test_the_launches_and_what_they_would_cost(gated: Record) -> None:
    rows = table(gated, "What")

    assert rows["Launches that the slow path makes"] == "6,080 x (1,024 + 2) = 6.24 million"
    assert rows["One launch, as measured"] == "2.50 us"
    assert rows["The launches at that cost"] == "15.6 s"
    assert rows["The convolution as dispatched, measured"] == "16.1 s on SlowDilated3d"
    assert rows["Each launch, if they were all of it"] == "2.58 us"
    assert rows["One more patch, from the sweep"] == "not measured at three patch counts"


def test_without_a_bias_the_formula_is_another() -> None:
    variants = [each | {"bias": False} for each in pair("SlowDilated3d", 0.03, 0.0003)]
    given = compared(variants, torch=GATED, convolution={"bias": False})

    assert table(given, "What")["Launches that the slow path makes"] == "6,080 x 2 = 12,160"


def test_the_slope_is_told_with_its_fit() -> None:
    counts = (64, 512, 6080)
    variants = [
        each | {"patches": n} for n in counts for each in pair("SlowDilated3d", 2.5e-3 * n, 0.0003)
    ]

    rows = table(compared(variants, torch=GATED), "What")
    assert rows["One more patch, from the sweep"] == "2.50 ms (R2 = 1.000)"


def test_a_backend_that_does_not_launch_for_every_patch_is_not_explained_by_launches() -> None:
    given = compared(pair("Mkldnn", 0.004, 0.001), device_type="cpu", latency_s=1e-6)

    assert "does not take the slow path that launches for every patch, but Mkldnn" in told(given)
    assert "Each launch, if they were all of it" not in table(given, "What")
    assert told(given).startswith("**No layer is known to be at fault.**")


def test_counted_launches_stand_beside_what_was_expected(gated: Record) -> None:
    counted: list[Row] = [
        {
            "variant": variant,
            "patches": 4,
            "features": 64,
            "bias": True,
            "counted_event": "aten::fill_",
            "counted": counts,
            "predicted": predicted,
        }
        for variant, counts, predicted in (("Conv3d", 0, None), ("slow_conv_dilated3d", 256, 256))
    ]
    before = gated.stages["dispatch"].tables
    stage = StageResult(status="ok", duration_s=1.0, tables=before | {"launches": counted})

    rows = table(gated.with_stage("dispatch", stage), "What runs")

    assert rows["slow_conv_dilated3d"].endswith("| 256 | 256")
    assert rows["Conv3d"].endswith("| 0 | -")


def test_the_other_convolutions_have_a_table_of_their_own(gated: Record) -> None:
    other: list[Row] = [
        row("", 0.002, speedup, module="audio.conv", experiment=experiment)
        for experiment, speedup in (("as dispatched", 1.0), ("as linear", 3.0))
    ]
    before = gated.stages["dispatch"].tables
    stage = StageResult(status="ok", duration_s=1.0, tables=before | {"experiments": other})

    text = told(gated.with_stage("dispatch", stage))

    assert "| `audio.conv` | as linear | 2.00 ms | 20 | 3.00 x [2.94, 3.06] |" in text


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        (pair("Cudnn", 0.001, 0.001), "**No layer is at fault.**"),
        (pair("Cudnn", 0.0015, 0.001), "**No layer is known to be at fault.**"),
        (pair(None, 0.0015, 0.001), "**No layer is known to be at fault.**"),
    ],
)
def test_nobody_is_accused_without_a_reason(variants: list[Row], said: str) -> None:
    assert told(compared(variants)).startswith(said)


def test_a_library_that_was_switched_off_is_the_fault_of_the_settings() -> None:
    off = HEALTHY_CPU | {"onednn_enabled": False}
    given = compared(pair("Slow3d", 7.7, 0.009), device_type="cpu", torch=off)

    assert told(given).startswith("**At fault for the projection: settings.**")
    assert "| oneDNN is switched on | no | does not hold |" in told(given)


def test_an_old_record_without_the_stage_still_has_its_layers(gated: Record) -> None:
    stages = {name: each for name, each in gated.stages.items() if name != "dispatch"}
    text = told(msgspec.structs.replace(gated, stages=stages))

    assert text.startswith("The stage did not run: this is derived from the comparison above.")
    assert "**At fault for the projection: PyTorch.**" in text
    assert "| the weight has five dimensions | 5 | holds |" in text


def test_a_record_without_either_stage_says_only_that() -> None:
    assert told(record()) == "**Not measured.** The record holds no stage `dispatch`."


def test_a_stage_that_was_skipped_says_why() -> None:
    skipped = StageResult(status="skipped", reason="the fix is applied", duration_s=0.0)

    assert told(record().with_stage("dispatch", skipped)).startswith(
        "**Skipped**: the fix is applied."
    )


def test_hostile_names_stay_text(gated: Record) -> None:
    torch = gated.environment["torch"] | {"version": HOSTILE}
    hostile = msgspec.structs.replace(
        gated,
        environment=gated.environment | {"torch": torch},
        stages={
            name: msgspec.structs.replace(
                each,
                tables={
                    key: [
                        {
                            k: HOSTILE if isinstance(v, str) and k != "dtype" else v
                            for k, v in r.items()
                        }
                        if key != "variants"
                        else r | {"module": HOSTILE, "backend": HOSTILE}
                        for r in rows
                    ]
                    for key, rows in each.tables.items()
                },
            )
            for name, each in gated.stages.items()
        },
    )

    text = told(hostile)

    assert "alert(1)" in text
    parsed = MarkdownIt("commonmark").enable("table").parse(text)
    inner = [token for each in parsed for token in [each, *(each.children or [])]]
    assert not [
        token for token in inner if token.type.startswith("html") and "<!--" not in token.content
    ]
    assert not [token for token in inner if token.type in ("link_open", "image", "heading_open")]
    for character in ("\x1b", "\x00", "\u202e", "/home/alice", "bob"):
        assert character not in text
    columns = [line.count(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(set(columns)) <= 1


def test_the_writeup_is_told_with_its_gate() -> None:
    given = writeup()
    text = told(given)

    assert "**At fault for the projection: PyTorch.**" in text
    assert "keeps cuDNN 9.10.2 away from bf16 Conv3d." in text
    assert "| this torch has the gate: 2.9 | 2.9.0+cu128 | holds |" in text
    assert "| Launches that the slow path makes | 6,080 x (1,024 + 2) = 6.24 million |" in text
    assert "| Each launch, if they were all of it | 2.58 us |" in text
    assert "None" not in text
    assert "gate" in markdown.render("t", composed(telling(given, diagnose(given))))
