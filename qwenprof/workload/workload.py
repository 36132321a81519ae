"""The workload: what is run, small enough to print on one line, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from qwenprof.discover import discover
from qwenprof.errors import UsageError
from qwenprof.record.record import Facts
from qwenprof.workload.family import Family

SCOPES = ("vision", "full")
DTYPES = ("bf16", "fp16", "fp32")
LARGEST_SEED = 2**31 - 1
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")
PROVOCATIONS = ("slow-conv",)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `Workload.default()` fills in what suits the device.

    family: a model family, see `families()`.
    size: one of the family's published sizes; "" takes the family's default.
    scope: "vision" is the vision tower alone, "full" the whole model's prefill.
    device: a torch device string, such as "cpu", "cuda" or "cuda:1".
    dtype: of weights and inputs.
    frames: images in one sample; a clip is given to the model as its frames.
    short_edge: pixels of a frame's shorter side, at an aspect ratio of 16:9, before the
        processor resizes it.
    batch: samples in one forward.
    attention: transformers' name of the attention implementation.
    seed: of the random weights, pixels and tokens.
    provoke: None, or a fault that is made on purpose to see it found. "slow-conv" runs every
        Conv3d without its library (cuDNN, oneDNN), forward and backward, and nothing else.

    Raises:
        UsageError: a field has a value that nothing can be run with.
    """

    family: str = "qwen3-vl"
    size: str = ""
    scope: str = "vision"
    device: str = "cpu"
    dtype: str = "bf16"
    frames: int = 1
    short_edge: int = 336
    batch: int = 1
    attention: str = "sdpa"
    seed: int = 0
    provoke: str | None = None

    def __post_init__(self) -> None:
        family = _one_of("family", self.family, families())
        if not self.size:
            msgspec.structs.force_setattr(self, "size", families()[family].default_size)
        _one_of("size", self.size, families()[family].sizes)
        _one_of("scope", self.scope, SCOPES)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("attention", self.attention, ATTENTIONS)
        if self.provoke is not None:
            _one_of("provoke", self.provoke, PROVOCATIONS)
        _at_least("frames", self.frames, 1)
        _at_least("batch", self.batch, 1)
        _at_least("short_edge", self.short_edge, 32)
        _at_least("seed", self.seed, 0)
        if self.seed > LARGEST_SEED:
            raise UsageError(f"--seed {self.seed}: must be at most {LARGEST_SEED}")

    @classmethod
    def default(cls, device: str | None = None, **options: Any) -> Workload:
        """What suits the device, with the given fields changed.

        On an accelerator the published clip: eight frames through the whole model. On a CPU
        one frame through the vision tower, which is as wide and deep, but not as long.

        Args:
            device: a torch device string; None takes the accelerator if there is one.
            options: fields of the workload; None leaves a field at its default.

        Raises:
            UsageError: the device is not there, or a field has an impossible value.
        """
        device = resolved_device(device)
        fitting: dict[str, Any] = (
            {"scope": "vision", "frames": 1} if device == "cpu" else {"scope": "full", "frames": 8}
        )
        asked = {key: value for key, value in options.items() if value is not None}
        return cls(device=device, **(fitting | asked))

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    def sweep_batches(self) -> list[int]:
        """Batch sizes that tell whether batching is to blame, the workload's own among them."""
        return sorted({*((1, 2, 4) if self.on_cpu else (1, 4, 8, 16)), self.batch})

    def attention_batches(self) -> list[int]:
        """The two batch sizes at which attention implementations are compared."""
        return [self.batch, self.batch * (2 if self.on_cpu else 8)]

    def facts(self) -> Facts:
        """The workload as a record keeps it."""
        return dict(msgspec.to_builtins(self)) | {"summary": str(self)}

    def __str__(self) -> str:
        part = "vision tower" if self.scope == "vision" else "full prefill"
        return (
            f"{self.family} {self.size} {part}, {self.dtype} on {self.device}, "
            f"batch {self.batch} x {self.frames} frame{'s' if self.frames > 1 else ''} "
            f"at short edge {self.short_edge}, {self.attention} attention, random weights"
            + (f", PROVOKED ON PURPOSE: {self.provoke}" if self.provoke else "")
        )


def families() -> dict[str, Family]:
    """The model families by name."""
    return discover("qwenprof.workload.families", "FAMILY", Family)


def resolved_device(device: str | None) -> str:
    """A torch device string that is known to work on this machine.

    Raises:
        UsageError: torch does not know the device, or it is not there.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return accelerator.type if accelerator else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"--device {device}: torch knows no such device; try cpu or cuda"
        ) from error
    if wanted.type == "cpu":
        return "cpu"
    if accelerator is None or accelerator.type != wanted.type:
        has = f"it has {accelerator.type}" if accelerator else "it has none, only a CPU"
        raise UsageError(
            f"--device {device}: torch {torch.__version__} finds no such accelerator here, {has}; "
            "use --device cpu, or check the driver and that this torch build supports the device"
        )
    count = torch.accelerator.device_count()
    if (wanted.index or 0) >= count:
        raise UsageError(f"--device {device}: there are {count}, numbered from 0")
    return device


def _one_of(option: str, value: str, choices: Sequence[str] | Mapping[str, object]) -> str:
    if value not in choices:
        raise UsageError(
            f"--{option.replace('_', '-')} {value}: choose one of {', '.join(choices)}"
        )
    return value


def _at_least(option: str, value: int, least: int) -> None:
    if not isinstance(value, int):
        raise UsageError(f"--{option.replace('_', '-')} {value!r}: must be a whole number")
    if value < least:
        raise UsageError(f"--{option.replace('_', '-')} {value}: must be at least {least}")
