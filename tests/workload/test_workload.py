"""A workload is checked when it is made, and its defaults suit the device."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from qwenprof.errors import UsageError
from qwenprof.workload.workload import Workload, families, resolved_device


def test_the_defaults_on_a_cpu_are_one_frame_through_the_tower() -> None:
    workload = Workload.default("cpu")

    assert (workload.scope, workload.size, workload.frames, workload.dtype) == (
        "vision",
        "4b",
        1,
        "bf16",
    )
    assert workload.sweep_batches() == [1, 2, 4]
    assert workload.attention_batches() == [1, 2]


def test_the_defaults_on_an_accelerator_are_the_published_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )

    workload = Workload.default()

    assert (workload.device, workload.scope, workload.size) == ("cuda", "full", "4b")
    assert (workload.frames, workload.short_edge, workload.dtype) == (8, 336, "bf16")
    assert workload.sweep_batches() == [1, 4, 8, 16]
    assert workload.attention_batches() == [1, 8]


def test_options_change_the_defaults_and_none_leaves_them() -> None:
    workload = Workload.default("cpu", size="8b", frames=None, batch=3)

    assert (workload.size, workload.frames, workload.batch) == ("8b", 1, 3)
    assert workload.sweep_batches() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "5b"}, "--size 5b: choose one of 2b, 4b, 8b"),
        ({"family": "gpt"}, "--family gpt: choose one of qwen3-vl"),
        ({"dtype": "int3"}, "--dtype int3: choose one of bf16, fp16, fp32"),
        ({"scope": "all"}, "--scope all: choose one of vision, full"),
        ({"attention": "fast"}, "--attention fast: choose one of eager"),
        ({"batch": 0}, "--batch 0: must be at least 1"),
        ({"frames": -1}, "--frames -1: must be at least 1"),
        ({"short_edge": 8}, "--short-edge 8: must be at least 32"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
    ],
)
def test_an_impossible_value_is_named_with_the_remedy(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        Workload(**options)

    assert message in str(error.value)


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Workload().size = "8b"  # type: ignore[misc]


def test_it_says_in_one_line_what_it_is() -> None:
    workload = Workload.default("cpu", size="2b", batch=2)

    assert str(workload) == (
        "qwen3-vl 2b vision tower, bf16 on cpu, batch 2 x 1 frame at short edge 336, "
        "sdpa attention, random weights"
    )


def test_its_facts_make_the_same_workload_again() -> None:
    workload = Workload.default("cpu", seed=7, frames=3)
    facts = {key: value for key, value in workload.facts().items() if key != "summary"}

    assert msgspec.convert(facts, Workload) == workload


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here")
def test_a_device_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"--device cuda.*only a CPU.*--device cpu"):
        resolved_device("cuda")
    with pytest.raises(UsageError, match="no such device"):
        resolved_device("warp")
    assert resolved_device(None) == "cpu"


def test_a_device_number_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)

    assert resolved_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="--device cuda:2: there are 2"):
        resolved_device("cuda:2")


def test_the_published_dimensions() -> None:
    """Source: config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct."""
    sizes = families()["qwen3-vl"].sizes
    dimensions = {
        name: (
            size.vision["depth"],
            size.vision["hidden_size"],
            size.vision["out_hidden_size"],
            size.text["num_hidden_layers"],
            size.text["hidden_size"],
            size.text["intermediate_size"],
        )
        for name, size in sizes.items()
    }

    assert dimensions == {
        "2b": (24, 1024, 2048, 28, 2048, 6144),
        "4b": (24, 1024, 2560, 36, 2560, 9728),
        "8b": (27, 1152, 4096, 36, 4096, 12288),
    }
