"""Chunks, index and resume of the extraction job: a kill, other settings, other ranks."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

from tests.benchmarks.feature_extraction import (
    SCRIPT,
    TINY,
    WIDTH,
    assert_same,
    chunk_times,
    command,
    features_of,
    index_of,
    save_image,
    saved_tower,
)


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
        chunks, out = importlib.import_module("_chunks"), tmp_path / "out"
        save = chunks.save_file

        def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
            save(tensors, path)
            if "00001" in path.name:
                path.write_bytes(path.read_bytes()[:10])
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(chunks, "save_file", full)
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
