"""The extraction job as its users run it: chunks that survive a kill, ranks, broken input."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLVisionModel,
)

from tests.conftest import TINY_VISION

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "extract_features.py"
WIDTH = 32
TINY = TINY_VISION | {"depth": 2, "out_hidden_size": WIDTH}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tower of two narrow blocks, saved alone."""
    return saved_tower(tmp_path_factory.mktemp("tower"), seed=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of three shapes and a clip of five frames: two chunks of three samples."""
    folder = tmp_path / "input"
    clip = folder / "clip"
    clip.mkdir(parents=True)
    for number in range(5):
        save_image(folder / f"image-{number}.png", 64 + 32 * (number % 3), number)
        save_image(clip / f"{number}.jpg", 64, 10 + number)
    return folder


def saved_tower(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    Qwen3VLVisionModel._from_config(Qwen3VLVisionConfig(**TINY)).save_pretrained(folder)
    return str(folder)


def save_image(path: Path, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (64, width, 3), dtype=torch.uint8, generator=generator)
    Image.fromarray(noise.numpy()).save(path)


def command(images: Path, out: Path, model: str, *more: str) -> list[str]:
    chosen = ["--model", model, "--device", "cpu", "--frames", "2", "--chunk-size", "3"]
    return [str(images), str(out), *chosen, "--batch-size", "2", *more]


def index_of(out: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((out / "index.json").read_text(encoding="utf-8"))
    return index


def features_of(out: Path) -> dict[str, torch.Tensor]:
    """As a user reads them: by the index."""
    found = {}
    for name, place in index_of(out)["samples"].items():
        with safe_open(out / place["file"], "pt") as file:
            tensor = file.get_tensor(place["key"]).clone()  # it would follow changes of the file
        found[name] = tensor if place["row"] is None else tensor[place["row"]]
        assert list(found[name].shape) == place["shape"]
        assert str(found[name].dtype) == f"torch.{place['dtype']}"
    return found


def chunk_times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("features-*"))}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    for name, feature in one.items():
        torch.testing.assert_close(feature, other[name], rtol=1e-4, atol=1e-5)


def test_it_knows_nothing_of_qwenprof() -> None:
    assert "import qwenprof" not in (text := SCRIPT.read_text(encoding="utf-8"))
    assert "from qwenprof" not in text
    assert "_common" not in text


class TestFeatures:
    def test_they_are_the_mean_of_the_towers_merged_tokens(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        # GIVEN a folder of images and a clip WHEN their features are extracted
        assert script.main(command(images, tmp_path / "out", model)) == 0
        found = features_of(tmp_path / "out")
        # THEN each sample has what the tower gives for its frames alone
        assert list(found) == ["clip", *(f"image-{number}.png" for number in range(5))]
        tower = Qwen3VLVisionModel.from_pretrained(model)
        frames = [Image.open(images / "clip" / f"{number}.jpg") for number in (0, 2)]
        pixels = script.load_processor(None)(images=frames, return_tensors="pt")
        with torch.inference_mode():
            output = tower(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
        tokens = output[0] if isinstance(output, tuple) else output.pooler_output
        torch.testing.assert_close(found["clip"], tokens.mean(0), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "more",
        [["--batch-size", "1"], ["--batch-size", "5", "--chunk-size", "5"]],
        ids=" ".join,
    )
    def test_they_do_not_depend_on_batches_and_chunks(
        self, more: list[str], script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        script.main(command(images, tmp_path / "one", model))
        script.main(command(images, tmp_path / "other", model, *more))
        assert_same(features_of(tmp_path / "one"), features_of(tmp_path / "other"))

    def test_all_tokens_can_be_kept(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        # GIVEN both kinds of features of the same samples
        script.main(command(images, tmp_path / "mean", model))
        script.main(command(images, tmp_path / "all", model, "--tokens", "all"))
        # THEN the one is the mean of the other, in which an image has a quarter of its patches
        tokens = features_of(tmp_path / "all")
        assert tokens["image-0.png"].shape == (256 // 4, WIDTH)
        assert tokens["clip"].shape == (2 * 256 // 4, WIDTH)
        means = {name: each.mean(0) for name, each in tokens.items()}
        assert_same(features_of(tmp_path / "mean"), means)

    def test_the_tower_of_a_whole_model_is_the_same_tower(
        self, script: ModuleType, images: Path, tmp_path: Path
    ) -> None:
        # GIVEN a whole Qwen3-VL, and its tower saved alone
        text = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 32}
        config = Qwen3VLConfig(vision_config=TINY, text_config=text | {"vocab_size": 64})
        whole = Qwen3VLForConditionalGeneration._from_config(config)
        whole.save_pretrained(tmp_path / "whole")
        whole.model.visual.save_pretrained(tmp_path / "tower")
        # WHEN both are used THEN the features are equal
        for name in ("whole", "tower"):
            assert script.main(command(images, tmp_path / f"by {name}", str(tmp_path / name))) == 0
        assert_same(features_of(tmp_path / "by whole"), features_of(tmp_path / "by tower"))

    def test_frames_are_spread_over_a_clip(self, script: ModuleType) -> None:
        assert script.spread(10, 3) == [0, 3, 6]
        assert script.spread(2, 8) == [0, 1]
        assert script.spread(5, 5) == [0, 1, 2, 3, 4]

    def test_the_short_edge_keeps_the_shape(self, script: ModuleType) -> None:
        image = Image.new("RGB", (1280, 720))
        assert script.with_short_edge(image, 336).size == (597, 336)
        assert script.with_short_edge(image, None).size == (1280, 720)


class TestBrokenInput:
    def test_a_broken_sample_is_told_and_the_job_goes_on(
        self,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        # GIVEN no image, half an image, an empty clip, and a shape that the processor refuses
        (images / "image-1.png").write_bytes(b"nothing")
        whole = (images / "image-4.png").read_bytes()
        (images / "image-4.png").write_bytes(whole[: len(whole) // 2])
        (images / "a-clip").mkdir()
        Image.new("RGB", (1000, 2)).save(images / "thin.png")
        # WHEN the job runs THEN the exit code is 1, and the index has each reason
        out = tmp_path / "out"
        assert script.main(command(images, out, model)) == 1
        failed = index_of(out)["failed"]
        assert list(failed) == ["a-clip", "image-1.png", "image-4.png", "thin.png"]
        assert "no frames" in failed["a-clip"]
        assert "truncated" in failed["image-4.png"]
        assert "aspect ratio" in failed["thin.png"]
        assert "image-1.png: UnidentifiedImageError" in capsys.readouterr().err
        # and the others have their own features, not a neighbour's
        script.main(command(images, tmp_path / "alone", model, "--batch-size", "1"))
        assert list(features_of(out)) == ["clip", "image-0.png", "image-2.png", "image-3.png"]
        assert_same(features_of(out), features_of(tmp_path / "alone"))

    def test_failed_samples_are_tried_again_on_request(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        # GIVEN a job with a broken image in its second chunk, which is whole by now
        out, broken = tmp_path / "out", images / "image-4.png"
        whole = broken.read_bytes()
        broken.write_bytes(b"")
        assert script.main(command(images, out, model)) == 1
        broken.write_bytes(whole)
        before = chunk_times(out)
        # WHEN it goes on THEN nothing is tried again, unless that is asked for
        assert script.main(command(images, out, model)) == 1
        assert chunk_times(out) == before
        assert script.main(command(images, out, model, "--retry-failed")) == 0
        after = chunk_times(out)
        assert [name for name in before if before[name] != after[name]] == [
            "features-00001.json",
            "features-00001.safetensors",
        ]
        assert len(features_of(out)) == 6

    def test_features_that_are_no_numbers_are_a_failure(
        self, script: ModuleType, images: Path, tmp_path: Path
    ) -> None:
        tower = Qwen3VLVisionModel._from_config(Qwen3VLVisionConfig(**TINY))
        torch.nn.init.constant_(tower.merger.linear_fc2.bias, float("inf"))
        tower.save_pretrained(tmp_path / "tower")
        assert script.main(command(images, tmp_path / "out", str(tmp_path / "tower"))) == 1
        assert "not finite" in index_of(tmp_path / "out")["failed"]["clip"]

    def test_a_video_without_a_decoder_is_refused_by_name(
        self,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (images / "drive.mp4").touch()
        monkeypatch.setattr(script.importlib.util, "find_spec", lambda _: None)
        assert script.main(command(images, tmp_path / "out", model)) == 2
        assert "drive.mp4: reading a video file needs PyAV" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("more", "complaint"),
        [
            (["--device", "cuda"], "torch finds no CUDA device"),
            (["--model", "nowhere/at-all"], "nowhere/at-all"),
        ],
    )
    def test_what_cannot_be_done_is_told_in_a_line(
        self,
        more: list[str],
        complaint: str,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert script.main(command(images, tmp_path / "out", model, *more)) == 2
        assert complaint in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_checkpoint_that_lacks_weights_is_refused(
        self,
        script: ModuleType,
        images: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        # GIVEN a tower of two blocks, whose config speaks of three
        folder = tmp_path / "tower"
        config = json.loads(Path(saved_tower(folder, 0), "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"depth": 3}))
        # WHEN it is used THEN no random weights stand in for what is missing
        assert script.main(command(images, tmp_path / "out", str(folder))) == 2
        assert "lacks 12 weights of the tower, as blocks.2." in capsys.readouterr().err

    def test_another_model_is_refused(
        self,
        script: ModuleType,
        images: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
        assert script.main(command(images, tmp_path / "out", str(tmp_path))) == 2
        assert "is a 'qwen2_vl', not a Qwen3-VL" in capsys.readouterr().err


class TestGoingOn:
    def test_with_other_settings_is_refused(
        self,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        # GIVEN a finished job
        out = tmp_path / "out"
        script.main(command(images, out, model))
        before = chunk_times(out)
        for more, named in {
            ("--dtype", "bf16"): "dtype was fp32, now bf16",
            ("--frames", "3"): "frames was 2, now 3",
            ("--chunk-size", "2"): "chunk_size was 3, now 2",
            ("--short-edge", "32"): "short_edge was None, now 32",
            ("--tokens", "all"): "tokens was mean, now all",
        }.items():
            # WHEN it is to go on otherwise THEN it says what differs, and touches nothing
            assert script.main(command(images, out, model, *more)) == 2
            assert named in capsys.readouterr().err
            assert chunk_times(out) == before

    def test_with_other_random_weights_or_samples_is_refused(
        self,
        script: ModuleType,
        images: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(script, "TRUE_WIDTH", TINY)
        out = tmp_path / "out"
        asked = [str(images), str(out), "--random-weights", "--depth", "1", "--device", "cpu"]
        assert script.main(asked) == 0
        assert script.main([*asked, "--seed", "1"]) == 2
        assert "seed was 0, now 1" in capsys.readouterr().err
        save_image(images / "more.png", 64, 0)
        assert script.main(asked) == 2
        assert "samples was 6, now 7" in capsys.readouterr().err

    def test_with_other_weights_under_the_same_name_is_refused(
        self,
        script: ModuleType,
        images: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        # GIVEN a job that lacks a chunk, and a checkpoint that was replaced meanwhile
        out, folder = tmp_path / "out", tmp_path / "tower"
        asked = command(images, out, saved_tower(folder, seed=0))
        script.main(asked)
        (out / "features-00001.json").unlink()
        saved_tower(folder, seed=1)
        # WHEN it goes on THEN the two are not mixed
        assert script.main(asked) == 2
        assert "weights_sha256 was" in capsys.readouterr().err

    def test_with_another_batch_size_is_fine(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        script.main(command(images, out, model))
        whole = features_of(out)
        (out / "features-00001.json").unlink()
        assert script.main(command(images, out, model, "--batch-size", "1")) == 0
        assert_same(features_of(out), whole)

    def test_what_a_kill_leaves_behind_is_not_taken_for_a_chunk(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        # GIVEN half a file under its temporary name, a chunk without its JSON, and a JSON whose
        # chunk is cut off
        out = tmp_path / "out"
        script.main(command(images, out, model))
        whole = features_of(out)
        (out / "features-00000.safetensors.partial-0").write_bytes(b"half")
        (out / "features-00000.json").unlink()
        cut = out / "features-00001.safetensors"
        cut.write_bytes(cut.read_bytes()[:-8])
        # WHEN the job goes on THEN all of it is made again
        assert script.main(command(images, out, model)) == 0
        assert_same(features_of(out), whole)
        assert not list(out.glob("*.partial*"))

    def test_nothing_counts_whose_write_failed(
        self,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # GIVEN a disk that is full at the second chunk
        save, out = script.save_file, tmp_path / "out"

        def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
            save(tensors, path)
            if "00001" in path.name:
                path.write_bytes(path.read_bytes()[:10])
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(script, "save_file", full)
        # WHEN the job runs THEN it ends with the reason, and only the first chunk is there
        assert script.main(command(images, out, model)) == 2
        assert sorted(path.name for path in out.iterdir()) == [
            "features-00000.json",
            "features-00000.safetensors",
            "settings.json",
        ]


@pytest.fixture
def stuck(images: Path) -> Iterator[Path]:
    """A named pipe in place of an image of the second chunk: who reads it waits for ever."""
    path = images / "image-3.png"
    whole = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    yield path
    path.unlink()
    path.write_bytes(whole)


def started(asked: list[str], first: Path) -> subprocess.Popen[str]:
    """The job as a process of its own, once its first chunk is there."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *asked], stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 120
    while not first.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return process


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
class TestKilled:
    @pytest.mark.parametrize(
        ("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["9", "2"]
    )
    def test_in_the_middle_it_goes_on_and_redoes_nothing(
        self,
        how: signal.Signals,
        code: int,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        # GIVEN a job that is stopped in its second chunk
        script.main(command(images, tmp_path / "whole", model))
        pipe, out = request.getfixturevalue("stuck"), tmp_path / "out"
        process = started(command(images, out, model), out / "features-00000.json")
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        # THEN it has left its first chunk, and says so if it could
        assert process.returncode == code, errors
        if how == signal.SIGINT:
            assert errors.splitlines()[-1] == "interrupted; the same command goes on from here"
        first = chunk_times(out)
        assert list(first) == ["features-00000.json", "features-00000.safetensors"]
        assert not (out / "index.json").exists()
        # WHEN it goes on THEN the first chunk is not touched, and the features are the same
        pipe.unlink()
        save_image(pipe, 64, 3)
        assert script.main(command(images, out, model)) == 0
        assert {name: chunk_times(out)[name] for name in first} == first
        assert_same(features_of(out), features_of(tmp_path / "whole"))

    @pytest.mark.slow
    def test_at_any_moment_it_leaves_whole_chunks(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        # GIVEN a job of many chunks, and its features
        for number in range(60):
            save_image(images / f"more-{number:02d}.png", 64, number)
        asked = ["--chunk-size", "1", "--batch-size", "1"]
        script.main(command(images, tmp_path / "whole", model, *asked))
        out, kept = tmp_path / "out", -1
        # WHEN it is killed again and again, each time at another moment
        for delay_s in (0.0, 0.003, 0.01, 0.04, 0.11, 0.27, 0.5):
            done = sorted(out.glob("features-*.json"))
            assert len(done) > kept
            kept = len(done)
            following = out / f"features-{kept:05d}.json"
            if following.stem == "features-00066":
                break
            process = started(command(images, out, model, *asked), following)
            time.sleep(delay_s)
            process.kill()
            process.communicate()
            # THEN every chunk that counts can be read
            for part in out.glob("features-*.json"):
                (place,) = json.loads(part.read_text())["samples"].values()
                with safe_open(out / place["file"], "pt") as file:
                    assert file.get_tensor("features").shape == (1, WIDTH)
        # and at the end nothing is missing
        assert script.main(command(images, out, model, *asked)) == 0
        assert_same(features_of(out), features_of(tmp_path / "whole"))


class TestRanks:
    def test_they_share_the_work_and_the_last_one_merges(
        self,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # GIVEN a broken image in the first rank's share
        (images / "image-0.png").write_bytes(b"")
        script.main(command(images, tmp_path / "one", model))
        # WHEN two ranks run, the first one first
        out = tmp_path / "two"
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "0")
        # THEN it does its own chunk, and does not fail: torchrun would kill the other
        assert script.main(command(images, out, model)) == 0
        assert list(chunk_times(out)) == ["features-00000.json", "features-00000.safetensors"]
        assert not (out / "index.json").exists()
        # and the last one has the index and the exit code
        monkeypatch.setenv("RANK", "1")
        assert script.main(command(images, out, model)) == 1
        assert_same(features_of(out), features_of(tmp_path / "one"))
        assert list(index_of(out)["failed"]) == ["image-0.png"]

    def test_another_number_of_ranks_goes_on(
        self,
        script: ModuleType,
        images: Path,
        model: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / "out"
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        script.main(command(images, out, model))
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setenv("RANK", "0")
        assert script.main(command(images, out, model)) == 0
        assert len(features_of(out)) == 6

    @pytest.mark.slow
    def test_torchrun_starts_them(
        self, script: ModuleType, images: Path, model: str, tmp_path: Path
    ) -> None:
        script.main(command(images, tmp_path / "one", model))
        for number in range(2):  # more ranks than chunks at first, then nothing left to do
            ranks = ["-m", "torch.distributed.run", "--nproc-per-node", "3", str(SCRIPT)]
            done = subprocess.run(
                [sys.executable, *ranks, *command(images, tmp_path / "ranks", model)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (number, done.stderr)
            assert_same(features_of(tmp_path / "ranks"), features_of(tmp_path / "one"))


@pytest.mark.slow
def test_workers_read_the_same(
    script: ModuleType, images: Path, model: str, tmp_path: Path
) -> None:
    (images / "image-2.png").write_bytes(b"")
    for workers in ("0", "2"):
        asked = command(images, tmp_path / workers, model, "--workers", workers)
        done = subprocess.run([sys.executable, str(SCRIPT), *asked], check=False)
        assert done.returncode == 1
    assert_same(features_of(tmp_path / "0"), features_of(tmp_path / "2"))


def test_an_output_folder_among_the_samples_is_refused(
    script: ModuleType, images: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(command(images, images / "features", model)) == 2
    assert "lies in the input folder" in capsys.readouterr().err
    shutil.rmtree(images)
    assert script.main(command(images, images.parent / "out", model)) == 2
    assert "is no folder" in capsys.readouterr().err
