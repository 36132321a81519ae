"""Run a script whose 3-d convolutions are timed, or sent to the slow path, without its knowing.

    python _convolution.py [--slow] [--seconds FILE] SCRIPT ARGUMENTS...

Only `F.conv3d` is wrapped, so that matrix products stay as fast as they are, in the script and
in whatever takes the convolution's place. With the vendor's library off, PyTorch's own loop
does the work: SlowDilated3d on CUDA, Slow3d on a CPU. The file gets the seconds of each call.
"""

from __future__ import annotations

import argparse
import atexit
import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Convolve = Callable[..., torch.Tensor]


def slow(convolve: Convolve) -> Convolve:
    def without_library(*args: Any, **kwargs: Any) -> torch.Tensor:
        backends = torch.backends
        with backends.cudnn.flags(enabled=False), backends.mkldnn.flags(enabled=False):
            return convolve(*args, **kwargs)

    return without_library


def timed(convolve: Convolve, spent_s: list[float]) -> Convolve:
    def synchronized(*args: Any, **kwargs: Any) -> torch.Tensor:
        wait()
        started_s = time.perf_counter()
        y = convolve(*args, **kwargs)
        wait()
        spent_s.append(time.perf_counter() - started_s)
        return y

    return synchronized


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--slow", action="store_true")
    options.add_argument("--seconds", type=Path)
    options.add_argument("command", nargs=argparse.REMAINDER)
    arguments = options.parse_args()
    if arguments.slow:
        torch.nn.functional.conv3d = slow(torch.nn.functional.conv3d)
    if arguments.seconds:
        spent_s: list[float] = []
        torch.nn.functional.conv3d = timed(torch.nn.functional.conv3d, spent_s)
        atexit.register(lambda: arguments.seconds.write_text(json.dumps(spent_s)))
    sys.argv = arguments.command
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
