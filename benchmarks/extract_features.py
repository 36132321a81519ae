"""Vision features of a folder of images and clips: the job that a slow patch embedding spoils.

It is written as its users write it, with torch and transformers alone, and knows nothing of
qwenprof; of this folder it needs only `_samples.py`, which reads, and `_chunks.py`, which writes.
A sample is an image, a subfolder of images (a clip, its frames in the order of their names) or
a video file. Each frame goes through the processor as an image, the samples go through the
Qwen3-VL vision tower in batches, and what the tower's merger gives is averaged over a sample's
tokens.

Claims
  whole       A chunk of features is there whole and in the index, or not at all, whenever the
              job was killed.
  resumed     The same command goes on with the chunks that are missing, and redoes none that
              is there. With other settings it refuses, and names them.
  counted     A sample that cannot be read is in the index with its reason, and the exit code
              is 1.

How to read it
  OUT/features-00000.safetensors holds the samples of one chunk, and the JSON beside it says
  which: a chunk counts once that JSON is there. At the end of the job they become OUT/index.json:
  for every sample its file, its key there, its row (null if the key is the sample's own), its
  shape and dtype; for every failed one the reason; and the settings. Each chunk's JSON has
  `batches`: `seconds` from the end of one batch to the end of the next, waiting for the reader
  and writing included, and `tower_s`, the part between the pixels on the host and the features
  on the host. "Steady" leaves out the first batch of a run.

  A chunk's samples follow from their names and --chunk-size. So --batch-size, --workers,
  --device and the number of ranks may change when a job goes on; the rest may not. Files that
  are replaced under the same name are not noticed.

  Exit codes: 0 done, 1 samples failed, 2 it cannot be done (the message says why), 3 out of
  memory, 130 interrupted. Under torchrun only the rank that is last can end with 1.

Examples
  extract_features.py clips features --model Qwen/Qwen3-VL-4B-Instruct --frames 8 --short-edge 336
  extract_features.py clips features --random-weights --depth 2 --device cpu
  torchrun --nproc-per-node 8 extract_features.py clips features --model /models/qwen3-vl-4b
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _chunks import (
    Chunk,
    Failure,
    Part,
    RefusalError,
    refuse_other_settings,
    write_chunk,
    write_index,
    write_json,
)
from _samples import Pixels, found_samples, read_batch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TRUE_WIDTH = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2048,
}
PROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


# ---- the model


def load_processor(model: str | None) -> Any:
    """The checkpoint's own image processor; with Qwen3-VL's settings where a folder has none."""
    import transformers

    # 4.57 calls the torchvision one "Fast"; 5.x gave it the plain name and deprecates the other
    fast = "Qwen2VLImageProcessorFast"
    kind = getattr(transformers, fast if fast in dir(transformers) else "Qwen2VLImageProcessor")
    names = ("preprocessor_config.json", "processor_config.json")
    bare = model is not None and Path(model).is_dir()
    if model is None or (bare and not any((Path(model) / name).exists() for name in names)):
        return kind(**PROCESSOR)
    return kind.from_pretrained(model)


def load_tower(arguments: argparse.Namespace) -> nn.Module:
    """The vision tower on the device: random at true width, or from a checkpoint."""
    import transformers
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.random_weights:
        depth = arguments.depth or TRUE_WIDTH["depth"]
        last = [block for block in (5, 11, 17) if block < depth]
        config = TRUE_WIDTH | {"depth": depth, "deepstack_visual_indexes": last}
        torch.manual_seed(arguments.seed)
        dtype = DTYPES[arguments.dtype]
        tower = Qwen3VLVisionModel._from_config(Qwen3VLVisionConfig(**config), dtype=dtype)
    else:
        tower = checkpoint_tower(Qwen3VLVisionModel, arguments.model, DTYPES[arguments.dtype])
    placed: nn.Module = tower.to(arguments.device).eval()
    return placed


def checkpoint_tower(kind: Any, model: str, dtype: torch.dtype) -> nn.Module:
    """The tower of a whole Qwen3-VL or of a tower saved alone; never with weights missing."""
    content, _ = kind.config_class.get_config_dict(model)
    if not str(content.get("model_type")).startswith("qwen3_vl"):
        raise RefusalError(f"{model} is a {content.get('model_type')!r}, not a Qwen3-VL")
    tower, loaded = kind.from_pretrained(
        model,
        dtype=dtype,
        use_safetensors=True,
        key_mapping={r"^(model\.)?visual\.": ""},
        output_loading_info=True,
    )
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise RefusalError(f"{model} lacks {len(missing)} weights of the tower, as {missing[0]}")
    whole: nn.Module = tower
    return whole


def digest(items: Iterator[bytes]) -> str:
    """A fingerprint; the items must not run into each other."""
    made = hashlib.sha256()
    for item in items:
        made.update(len(item).to_bytes(8, "little") + item)
    return made.hexdigest()


def weights_digest(tower: nn.Module) -> str:
    states = tower.state_dict().values()
    return digest(state.cpu().contiguous().view(torch.uint8).numpy().tobytes() for state in states)


@torch.inference_mode()
def merged_tokens(tower: Any, samples: Sequence[Pixels]) -> Sequence[torch.Tensor]:
    """What the merger gives, (tokens, width) for each sample."""
    values = torch.cat([sample.values for sample in samples]).to(tower.device, tower.dtype)
    grid = torch.cat([sample.grid for sample in samples]).to(tower.device)
    output = tower(values, grid_thw=grid)
    # a tuple up to transformers 4.57, an object since 5
    merged = output[0] if isinstance(output, tuple) else output.pooler_output
    unit = tower.config.spatial_merge_size**2
    sizes = [int(sample.grid.prod(-1).sum()) // unit for sample in samples]
    split: Sequence[torch.Tensor] = merged.split(sizes)
    return split


def feature(tokens: torch.Tensor, kept: str) -> torch.Tensor | Failure:
    """The mean of a sample's tokens in fp32, (width,), or all of them as they are."""
    mean = tokens.float().mean(0)
    if not mean.isfinite().all():
        return Failure(reason="its features are not finite: try another --dtype")
    return (mean if kept == "mean" else tokens).cpu().clone()


def features(
    tower: nn.Module, batch: Sequence[Pixels | Failure], kept: str
) -> list[torch.Tensor | Failure]:
    """The features of a batch in its order; failures stay what they are."""
    good = [each for each in batch if isinstance(each, Pixels)]
    tokens = iter(merged_tokens(tower, good) if good else ())
    return [each if isinstance(each, Failure) else feature(next(tokens), kept) for each in batch]


# ---- the job


def timed(
    batches: Iterable[Sequence[Pixels | Failure]], tower: nn.Module, kept: str
) -> Iterator[tuple[list[torch.Tensor | Failure], Part]]:
    """The features of each batch, and how long it took."""
    ended_s = time.perf_counter()
    for batch in batches:
        began_s = time.perf_counter()
        made = features(tower, batch, kept)
        now_s = time.perf_counter()
        timing = {"samples": len(batch), "seconds": now_s - ended_s, "tower_s": now_s - began_s}
        ended_s = now_s
        yield made, timing


def extracted(
    chunks: Sequence[Chunk], tower: nn.Module, processor: Any, arguments: argparse.Namespace
) -> Iterator[Part]:
    """The JSON of each chunk as soon as it is written."""
    step, kept = arguments.batch_size, arguments.tokens
    batches = [c.samples[i : i + step] for c in chunks for i in range(0, len(c.samples), step)]
    prepare = partial(
        read_batch, processor=processor, frames=arguments.frames, short_edge=arguments.short_edge
    )
    loader: Any = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=prepare,
        num_workers=arguments.workers,
    )
    results = timed(loader, tower, kept)
    with progress(sum(len(chunk.samples) for chunk in chunks), arguments) as bar:
        for chunk in chunks:
            made: list[torch.Tensor | Failure] = []
            timings: list[Part] = []
            while len(made) < len(chunk.samples):
                batch, timing = next(results)
                made += batch
                timings.append(timing)
                bar.update(len(batch))
            yield write_chunk(chunk, made, kept, timings)


def progress(total: int, arguments: argparse.Namespace) -> Any:
    return tqdm(
        total=total,
        unit="sample",
        desc=f"rank {arguments.rank}" if arguments.world > 1 else None,
        position=arguments.rank,
        mininterval=0.5 if sys.stderr.isatty() else 10,
    )


def known_settings(arguments: argparse.Namespace, samples: Sequence[Path]) -> Part:
    """What the features depend on, as far as it is known before the model is loaded."""
    model = arguments.model
    if model is not None and Path(model).is_dir():
        model = str(Path(model).resolve())
    return {
        "model": model or f"random weights, depth {arguments.depth or TRUE_WIDTH['depth']}",
        "seed": None if model else arguments.seed,
        "dtype": arguments.dtype,
        "frames": arguments.frames,
        "short_edge": arguments.short_edge,
        "tokens": arguments.tokens,
        "chunk_size": arguments.chunk_size,
        "samples": len(samples),
        "names_sha256": digest(os.fsencode(sample.name) for sample in samples),
    }


def ready(arguments: argparse.Namespace, settings: Part) -> tuple[nn.Module, Any]:
    """Tower and processor; `settings` get what is known of them, and are in the folder then."""
    processor, tower = load_processor(arguments.model), load_tower(arguments)
    described = json.loads(processor.to_json_string())
    settings["processor"] = {name: described.get(name) for name in PROCESSOR}
    settings["weights_sha256"] = weights_digest(tower)
    path = arguments.out / "settings.json"
    refuse_other_settings(path, settings)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, settings, arguments.rank)
    return tower, processor


def run(arguments: argparse.Namespace) -> int:
    out, size = arguments.out, arguments.chunk_size
    samples = found_samples(arguments.input)
    if out.resolve().is_relative_to(arguments.input.resolve()):
        raise RefusalError(f"{out} lies in the input folder, and would become a sample itself")
    settings = known_settings(arguments, samples)
    refuse_other_settings(out / "settings.json", settings)
    chunks = [
        Chunk(number=i // size, samples=samples[i : i + size], folder=out)
        for i in range(0, len(samples), size)
    ]
    own = chunks[arguments.rank :: arguments.world]
    pending = [c for c in own if c.finished(retry_failed=arguments.retry_failed) is None]
    print(f"{len(samples)} samples; {len(own) - len(pending)} of {len(own)} chunks are there")
    if pending:
        tower, processor = ready(arguments, settings)
        (out / "index.json").unlink(missing_ok=True)
        tell_speed(list(extracted(pending, tower, processor, arguments)))
    return concluded(chunks, out, arguments.rank)


def tell_speed(parts: Sequence[Part]) -> None:
    batches = [batch for part in parts for batch in part["batches"]][1:]
    if batches:
        count = sum(batch["samples"] for batch in batches)
        steady_s = sum(batch["seconds"] for batch in batches) / count
        print(f"{steady_s:.4g} s a sample, steady, over {count} samples after the first batch")


def concluded(chunks: Sequence[Chunk], out: Path, rank: int) -> int:
    """The index and the exit code.

    Only the rank that finds all chunks there may fail: torchrun would kill the other ranks.
    """
    index = write_index(chunks, out, rank)
    if index is None:
        print(f"rank {rank} is done; other ranks are not")
        return 0
    failed = index["failed"]
    print(f"{len(index['samples'])} samples in {out / 'index.json'}, {len(failed)} failed")
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def parsed(command: Sequence[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("input", type=Path, help="folder of images, folders of images, videos")
    options.add_argument("out", type=Path, help="folder for the features; a job there goes on")
    model = options.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a Qwen3-VL, or its tower alone: a folder, or a hub id")
    model.add_argument("--random-weights", action="store_true", help="a 2B/4B tower's dimensions")
    options.add_argument("--depth", type=positive, help="fewer blocks, with --random-weights")
    options.add_argument("--seed", type=int, default=0, help="of the random weights")
    options.add_argument("--device", help="default: cuda if there is one, else cpu")
    options.add_argument("--dtype", choices=DTYPES, help="default: bf16 on cuda, else fp32")
    options.add_argument("--batch-size", type=positive, default=8)
    options.add_argument("--frames", type=positive, default=8, help="at most, of each clip")
    options.add_argument("--short-edge", type=positive, help="pixels; default: as it is")
    options.add_argument("--tokens", choices=("mean", "all"), default="mean")
    options.add_argument("--chunk-size", type=positive, default=256, help="samples of a file")
    options.add_argument("--workers", type=int, default=0, help="processes that read")
    options.add_argument("--retry-failed", action="store_true", help="redo chunks with failures")
    arguments = options.parse_args(command)
    if arguments.depth and not arguments.random_weights:
        options.error("--depth is for --random-weights: a checkpoint has its own")
    return placed(arguments)


def placed(arguments: argparse.Namespace) -> argparse.Namespace:
    """Which rank of how many this is, as torchrun says, on which device."""
    arguments.rank = int(os.environ.get("RANK", "0"))
    arguments.world = int(os.environ.get("WORLD_SIZE", "1"))
    has_cuda = torch.cuda.is_available()
    arguments.device = arguments.device or ("cuda" if has_cuda else "cpu")
    if arguments.device.startswith("cuda") and not has_cuda:
        raise RefusalError(f"--device {arguments.device}: torch finds no CUDA device here")
    if arguments.device == "cuda":
        arguments.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    arguments.dtype = arguments.dtype or ("fp32" if arguments.device == "cpu" else "bf16")
    return arguments


def main(command: Sequence[str] | None = None) -> int:
    try:
        return run(parsed(command))
    except (RefusalError, OSError) as error:
        print(f"extract_features: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"out of memory; a smaller --batch-size goes on from here: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
