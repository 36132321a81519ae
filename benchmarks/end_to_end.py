"""What does `qwenprof run` gain on a whole job, and does the job give the same?

Claims
  reached     `qwenprof run` says that a Conv3d ran as Linear, in a script that knows nothing of it.
  same        The two indexes have the same samples, and every sample's features in the one have
              a cosine above 0.99 with those in the other.
  faster      The job takes less time with the fix than without.

How to read it
  benchmarks/extract_features.py runs plain and under `qwenprof run`, each time in a fresh process
  into a fresh folder, in the order A B B A A B ... `steady` is what the script itself needs for a
  sample, reading and writing included, after its first batch: the mean within a process, then
  the median over processes with its 95 % interval, for which six of each kind are enough.
  `process` is from start to exit, imports and the loading of the model included. The last
  columns are `steady` for as many samples as --samples says. `speed-up` is a ratio of medians
  over processes with its bootstrap interval. Where that holds 1, nothing is claimed.

  One more plain process, which counts for nothing else, has its convolutions timed: their share
  of the steady time bounds what any fix of them can gain, and nothing is claimed either where
  the speed-up lies far above that. On a CPU the share is small, so expect a speed-up near 1.

  With --slow-path the convolution is sent to PyTorch's own loop in both kinds of process, as the
  releases that have the bug do. Such a result is labelled "slow path provoked": it is what the
  fix gains on a machine that has the fault, not on this one.

Examples
  end_to_end.py
  end_to_end.py --slow-path --device cuda
  end_to_end.py --input frames --model Qwen/Qwen3-VL-4B-Instruct --frames 8 --short-edge 336
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import (
    Claim,
    add_device_options,
    checked,
    conclude,
    environment_line,
    not_run,
    parser,
    seconds,
    unsettled,
)
from PIL import Image
from safetensors import safe_open

from qwenprof.harness.statistics import Ratio, median, median_ci, ratio_of_medians
from qwenprof.workload.workload import resolved_device

HERE = Path(__file__).parent
SCRIPT, CONVOLUTION = HERE / "extract_features.py", HERE / "_convolution.py"
PLAIN, FIXED = "plain", "qwenprof run"
RUN = ["-m", "qwenprof", "run"]
CLAIMED_COSINE = 0.99
IMPLAUSIBLE = 1.5  # times what Amdahl allows: the share comes from another process
TINY = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
TINY |= {"out_hidden_size": 64}
ON_CPU = {"dtype": "fp32", "clips": 6, "frames": 1, "short_edge": 64, "batch_size": 2}
ON_GPU = {"dtype": "bf16", "clips": 64, "frames": 8, "short_edge": 336, "batch_size": 8}

Interval = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process: which kind, how long, and where its features are."""

    way: str
    out: Path
    wall_s: float
    batches: list[dict[str, float]]
    told: str

    @property
    def steady_s(self) -> float:
        """Seconds per sample, without the first batch."""
        rest = self.batches[1:]
        return sum(b["seconds"] for b in rest) / sum(b["samples"] for b in rest)


def generate_clips(folder: Path, arguments: argparse.Namespace) -> Path:
    """Clips of random frames, 16:9: noise costs a decoder and a processor no less than a film."""
    generator = torch.Generator().manual_seed(arguments.seed)
    shape = (arguments.short_edge, round(arguments.short_edge * 16 / 9), 3)
    for clip in range(arguments.clips):
        (folder / f"clip-{clip:04d}").mkdir(parents=True)
        for frame in range(arguments.frames):
            noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            path = folder / f"clip-{clip:04d}" / f"{frame:03d}.jpg"
            Image.fromarray(noise.numpy()).save(path)
    return folder


def tiny_tower(folder: Path) -> Path:
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    torch.manual_seed(0)
    config = Qwen3VLVisionConfig(**TINY, deepstack_visual_indexes=[0])
    Qwen3VLVisionModel._from_config(config).save_pretrained(folder)
    return folder


# ---- the processes


def script_options(arguments: argparse.Namespace) -> list[str]:
    """What extract_features.py is asked for, but for input and output."""
    named = ("device", "dtype", "frames", "short_edge", "batch_size", "workers")
    asked = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in named]
    if arguments.model:
        return [*asked, f"--model={arguments.model}"]
    depth = [f"--depth={arguments.depth}"] if arguments.depth else []
    return [*asked, "--random-weights", f"--seed={arguments.seed}", *depth]


def command(way: str, around: Sequence[str], clips: Path, out: Path, asked: list[str]) -> list[str]:
    """The process's argv; `around` are options of _convolution.py, if it is needed."""
    script = [str(SCRIPT), str(clips), str(out), *asked]
    run = RUN if way == FIXED else []
    return [sys.executable, *run, *([str(CONVOLUTION), *around] if around else []), *script]


def finished(way: str, around: Sequence[str], clips: Path, out: Path, asked: list[str]) -> Job:
    """Run one process.

    Raises:
        SystemExit: it failed; its own last words are the message.
    """
    started_s = time.perf_counter()
    done = subprocess.run(
        command(way, around, clips, out, asked), capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - started_s
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise SystemExit(f"the {way} job ended with exit code {done.returncode}:\n{last}")
    parts = [json.loads(path.read_text()) for path in sorted(out.glob("features-*.json"))]
    told = [line for line in done.stderr.splitlines() if line.startswith("qwenprof: ")]
    job = Job(
        way=way,
        out=out,
        wall_s=wall_s,
        batches=[batch for part in parts for batch in part["batches"]],
        told=told[-1] if told else "",
    )
    if len(job.batches) < 2:
        raise SystemExit("one batch is all of it, so that none is steady: more --clips")
    print(f"{way}: {seconds(job.steady_s)} a sample, {seconds(wall_s)} in all", file=sys.stderr)
    return job


def order(repetitions: int) -> Iterator[str]:
    """A B B A A B ...: each kind as often first as second."""
    for pair in range(repetitions):
        yield from (PLAIN, FIXED) if pair % 2 == 0 else (FIXED, PLAIN)


def convolution_share(around: list[str], clips: Path, folder: Path, asked: list[str]) -> float:
    """The part of the steady time that the convolutions take, from a process of its own."""
    file = folder / "convolutions.json"
    out = folder / "share"
    job = finished(PLAIN, [*around, f"--seconds={file}"], clips, out, asked)
    spent_s = json.loads(file.read_text())
    per_batch = len(spent_s) // len(job.batches)
    steady_s = sum(batch["seconds"] for batch in job.batches[1:])
    return float(sum(spent_s[per_batch:])) / steady_s


# ---- the features


def features_of(out: Path) -> dict[str, torch.Tensor]:
    index = json.loads((out / "index.json").read_text(encoding="utf-8"))
    found = {}
    for name, place in index["samples"].items():
        with safe_open(out / place["file"], "pt") as file:
            found[name] = file.get_slice(place["key"])[place["row"]].double()
    return found


def agreement(one: Path, other: Path) -> tuple[float, float] | None:
    """Smallest cosine and largest difference over all samples; None if the samples differ."""
    ours, theirs = features_of(one), features_of(other)
    if list(ours) != list(theirs):
        return None
    cosine = torch.nn.functional.cosine_similarity
    pairs = [(ours[name], theirs[name]) for name in ours]
    smallest = min(float(cosine(a, b, dim=0)) for a, b in pairs)
    return smallest, max(float((a - b).abs().max()) for a, b in pairs)


def same_claim(plain: list[Job], fixed: list[Job], dtype: str) -> Claim:
    text = f"every sample's features have a cosine above {CLAIMED_COSINE} in {dtype}"
    found = [agreement(a.out, b.out) for a, b in zip(plain, fixed, strict=True)]
    agreed = [each for each in found if each is not None]
    if len(agreed) < len(found):
        return checked(text, False, "the indexes do not have the same samples")
    count = len(features_of(plain[0].out))
    cosine, difference = min(c for c, _ in agreed), max(d for _, d in agreed)
    detail = (
        f"smallest cosine {cosine:.8f}, largest difference {difference:.2e}, "
        f"over {count} samples in {len(found)} pairs"
    )
    return checked(text, cosine > CLAIMED_COSINE, detail)


# ---- what is claimed


def reached_claim(plain: list[Job], fixed: list[Job]) -> Claim:
    held = all("ran as Linear" in job.told and "no Conv3d" not in job.told for job in fixed)
    untouched = not any(job.told for job in plain)
    told = fixed[0].told or "it says nothing"
    return checked("qwenprof run reaches the script's Conv3d", held and untouched, told)


def faster_claim(ratio: Ratio, share: float, *, label: str) -> Claim:
    """A speed-up only where the whole interval says so."""
    text = f"the job takes less time with the fix{label}"
    bound = (
        f"the patch embedding was {share:.1%} of the time in a plain process of its own, "
        f"which allows for {most(share):.3g} x"
    )
    if ratio.ci is None:
        return not_run(text, f"{ratio.value:.3g} x of too few processes for an interval; {bound}")
    low, high = ratio.ci
    detail = f"{ratio.value:.3g} x [{low:.3g}, {high:.3g}]; {bound}"
    if low <= 1 <= high:
        return unsettled(text, detail)
    if low > IMPLAUSIBLE * most(share):
        return unsettled(text, f"{detail}; so something else differed, too")
    return checked(text, low > 1, detail)


def most(share: float) -> float:
    """The speed-up if a part with this share of the time took none (Amdahl)."""
    return 1 / (1 - share) if share < 1 else math.inf


def long_time(value_s: float) -> str:
    """Hours or days, as one speaks of a job."""
    for size_s, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if value_s >= size_s:
            return f"{value_s / size_s:.3g} {unit}"
    return seconds(value_s)


def spanned(interval: Interval, factor: float = 1.0) -> str:
    if interval is None:
        return "-"
    low, high = (long_time(bound * factor) for bound in interval)
    return f"{low} .. {high}"


def row(jobs: list[Job], samples: int) -> dict[str, str]:
    steady_s = [job.steady_s for job in jobs]
    ci = median_ci(steady_s)
    return {
        "job": jobs[0].way,
        "steady, a sample": seconds(median(steady_s)),
        "95 % interval": spanned(ci),
        "process": seconds(median([job.wall_s for job in jobs])),
        "n": str(len(jobs)),
        f"{samples:,} samples": long_time(median(steady_s) * samples),
        "their interval": spanned(ci, samples),
    }


def speedup_row(plain: list[Job], fixed: list[Job], ratio: Ratio, samples: int) -> dict[str, str]:
    walls = ratio_of_medians([job.wall_s for job in plain], [job.wall_s for job in fixed])
    low, high = ratio.ci or (None, None)
    shown = "-" if low is None or high is None else f"{low:.3g} .. {high:.3g} x"
    return {
        "job": "speed-up",
        "steady, a sample": f"{ratio.value:.3g} x",
        "95 % interval": shown,
        "process": f"{walls.value:.3g} x",
        "n": "-",
        f"{samples:,} samples": "-",
        "their interval": "-",
    }


def completed(arguments: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The options that follow from the device and from --quick."""
    arguments.device = resolved_device(arguments.device)
    fitting = ON_CPU if arguments.device == "cpu" else ON_GPU
    if arguments.quick:
        fitting = ON_CPU | {"clips": 4}
        arguments.repetitions = 1
        arguments.model = arguments.model or str(tiny_tower(folder / "tower"))
    for name, value in fitting.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def parsed() -> argparse.Namespace:
    options = parser(__doc__)
    add_device_options(options)
    options.add_argument("--input", type=Path, help="a folder of images and clips; random if not")
    options.add_argument("--clips", type=int, help="random ones to make; 6 on a CPU, else 64")
    options.add_argument("--model", help="folder or hub id; random weights at true width if not")
    options.add_argument("--depth", type=int, help="blocks of the random tower; all if not given")
    options.add_argument("--dtype", help="fp32 on a CPU, else bf16")
    options.add_argument("--frames", type=int, help="of a clip; 1 on a CPU, else 8")
    options.add_argument("--short-edge", type=int, help="64 on a CPU, else 336")
    options.add_argument("--batch-size", type=int, help="2 on a CPU, else 8")
    options.add_argument("--workers", type=int, default=0, help="processes that read")
    options.add_argument("--seed", type=int, default=0, help="of clips and weights")
    options.add_argument("--samples", type=int, default=29_169, help="to project to")
    options.add_argument("--repetitions", type=int, default=6, help="pairs of processes")
    options.add_argument("--slow-path", action="store_true", help="provoke it in both jobs")
    return options.parse_args()


def measured(arguments: argparse.Namespace, folder: Path) -> int:
    clips = arguments.input or generate_clips(folder / "clips", arguments)
    asked, around = script_options(arguments), ["--slow"] if arguments.slow_path else []
    jobs: dict[str, list[Job]] = {PLAIN: [], FIXED: []}
    for number, way in enumerate(order(arguments.repetitions)):
        jobs[way].append(finished(way, around, clips, folder / f"features-{number}", asked))
    share = convolution_share(around, clips, folder, asked)
    plain, fixed = jobs[PLAIN], jobs[FIXED]
    ratio = ratio_of_medians([job.steady_s for job in plain], [job.steady_s for job in fixed])
    label = " (slow path provoked)" if arguments.slow_path else ""
    claims = [
        reached_claim(plain, fixed),
        same_claim(plain, fixed, arguments.dtype),
        faster_claim(ratio, share, label=label),
    ]
    samples = arguments.samples
    rows = [*(row(each, samples) for each in jobs.values())]
    rows.append(speedup_row(plain, fixed, ratio, samples))
    raw: dict[str, Any] = {
        way: {
            "steady_s": [job.steady_s for job in each],
            "process_s": [job.wall_s for job in each],
            "batches": [job.batches for job in each],
        }
        for way, each in jobs.items()
    }
    name = "end_to_end_slow_path" if arguments.slow_path else "end_to_end"
    where = environment_line(arguments.device) + label
    raw |= {"patch_embedding_share": share, "options": asked, "slow_path": arguments.slow_path}
    return conclude(name, where, rows, claims, arguments.out, raw)


def main() -> int:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as folder:
        return measured(completed(arguments, Path(folder)), Path(folder))


if __name__ == "__main__":
    sys.exit(main())
