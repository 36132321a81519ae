"""The machine and the software, as a ticket needs them. Imports torch; reading a record does not.

Nothing here tells who ran it or where: no host name, user, home path or serial number.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from qwenprof.record.record import Cell, Facts

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "flash-attn",
    "triton",
    "numpy",
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")


def environment(device: str) -> dict[str, Facts]:
    """The environment, section by section; what cannot be found out is None.

    Args:
        device: the torch device string that the workload runs on.
    """
    sections: dict[str, dict[str, Any]] = {
        "device": _device(device),
        "host": _host(),
        "torch": _torch(),
        "packages": _packages(),
        "variables": _variables(),
    }
    return {
        section: {key: _cell(value) for key, value in facts.items()}
        for section, facts in sections.items()
    }


def collected() -> Facts:
    """PyTorch's own account of the machine, as trackers ask for it: one fact, a text of many lines.

    It takes seconds, since it lists packages. None where this torch cannot give it.
    """
    return {"text": _attempt(_collect_env)}


def _collect_env() -> str:
    from torch.utils import collect_env

    account: Any = collect_env  # untyped in torch
    return str(account.get_pretty_env_info())


def _device(device: str) -> dict[str, Any]:
    import torch

    kind = torch.device(device)
    if kind.type == "cpu":
        return {
            "type": "cpu",
            "name": cpu_name(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "instructions": instructions(),
            "threads": torch.get_num_threads(),
        }
    if kind.type == "cuda":
        return _cuda_device(kind.index or 0)
    return {"type": kind.type, "name": _attempt(lambda: _accelerator_name(kind.type))}


def _cuda_device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "type": "cuda",
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": _attempt(_driver_version),
        "arch_list": ", ".join(torch.cuda.get_arch_list()),
    }


def _accelerator_name(kind: str) -> str:
    import torch

    return str(getattr(torch, kind).get_device_name())


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    return str(pynvml.nvmlSystemGetDriverVersion())


def _host() -> Facts:
    return {
        "cpu": cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": platform.python_version(),
    }


def cpu_name() -> str | None:
    """The processor's marketing name, where the system tells it."""
    return _cpuinfo("model name") or platform.processor() or None


def instructions() -> str | None:
    """Which instruction sets for matrix work the processor has, as Linux names them."""
    flags = (_cpuinfo("flags") or "").split()
    return ", ".join(name for name in INSTRUCTIONS if name in flags) if flags else None


def _cpuinfo(name: str) -> str | None:
    """A fact of the first core, as Linux tells it; None elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            found = (line for line in lines if line.startswith(name))
            return next(found, "").partition(":")[2].strip() or None
    except OSError:
        return None


def _torch() -> dict[str, Any]:
    import torch

    cudnn = torch.backends.cudnn
    return {
        "version": torch.__version__,
        "git_version": torch.version.git_version,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn_runtime": _attempt(cudnn.version),
        "cudnn_compiled": _attempt(_cudnn_compile_version),
        "cudnn_wheel": _cudnn_wheel(),
        "cudnn_enabled": cudnn.enabled,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_allow_tf32": _attempt(lambda: cudnn.allow_tf32),
        "matmul_allow_tf32": _attempt(lambda: torch.backends.cuda.matmul.allow_tf32),
        "onednn_available": _attempt(torch.backends.mkldnn.is_available),
        "onednn_enabled": _attempt(lambda: torch.backends.mkldnn.enabled),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def _cudnn_compile_version() -> str:
    import torch

    return ".".join(str(part) for part in torch._C._cudnn.getCompileVersion())


def _cudnn_wheel() -> str | None:
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"] or "")
        if name.startswith("nvidia-cudnn"):
            return f"{name} {distribution.version}"
    return None


def _packages() -> Facts:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _variables() -> Facts:
    """Variables that change what torch does; values of no other variable are ever read."""
    names = (
        "CUDA_LAUNCH_BLOCKING",
        "TORCH_CUDNN_V8_API_DISABLED",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "NVIDIA_TF32_OVERRIDE",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_ALLOC_CONF",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "ONEDNN_MAX_CPU_ISA",
    )
    return {name: os.environ.get(name) for name in names}


def _attempt(read: Callable[[], Any]) -> Any:
    """What `read` gives; None where this build or machine cannot tell."""
    try:
        return read()
    except (AttributeError, ImportError, OSError, RuntimeError):
        return None


def _cell(value: Any) -> Cell:
    """A plain cell: torch's version, for one, is a subclass of str that JSON does not know."""
    return value if value is None or type(value) in (bool, int, float) else str(value)
