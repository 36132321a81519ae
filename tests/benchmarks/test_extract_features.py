"""The extraction job as its users run it: its features, broken input, refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLVisionModel,
)

from tests.benchmarks.feature_extraction import (
    SCRIPT,
    TINY,
    WIDTH,
    assert_same,
    chunk_times,
    command,
    features_of,
    index_of,
    saved_tower,
)


def test_it_knows_nothing_of_qwenprof() -> None:
    for path in (SCRIPT, *map(SCRIPT.with_name, ("_chunks.py", "_samples.py"))):
        assert "import qwenprof" not in (text := path.read_text(encoding="utf-8"))
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
        spread = importlib.import_module("_samples").spread
        assert spread(10, 3) == [0, 3, 6]
        assert spread(2, 8) == [0, 1]
        assert spread(5, 5) == [0, 1, 2, 3, 4]

    def test_the_short_edge_keeps_the_shape(self, script: ModuleType) -> None:
        image = Image.new("RGB", (1280, 720))
        resized = importlib.import_module("_samples").with_short_edge
        assert resized(image, 336).size == (597, 336)
        assert resized(image, None).size == (1280, 720)


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
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
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
