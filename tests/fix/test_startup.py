"""What `qwenprof run` starts has the fix, in every process, and each says what it ran."""

from __future__ import annotations

import os
import re
import venv
from pathlib import Path

import pytest
import torch
from launching import PYTHON, RUN, execute, outcome, write

# a convolution that runs as Linear, and a function that runs it so many times
MODEL = """
    import os, sys
    import torch.nn.functional  # a submodule before the module itself
    import torch

    torch.set_num_threads(1)  # OpenMP does not survive a fork
    conv = torch.nn.Conv3d(3, 4, 2, stride=2)
    patches = torch.ones(5, 3, 2, 2, 2)

    def forward(times):
        for _ in range(times):
            conv(patches)
"""


def without_process_ids(stderr: str) -> list[str]:
    return sorted(re.sub(r"process \d+", "process", stderr).splitlines())


def test_the_convolution_runs_as_linear_and_is_counted(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        MODEL
        + """
    import importlib.util
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            print(op)
            return op(*args, **(kwargs or {}))

    with Ops():
        forward(1)
    forward(2)
    torch.nn.Conv3d(3, 4, 2, stride=2)(patches)
    print([finder for finder in sys.meta_path if finder.__module__ == "sitecustomize"])
    """,
    )

    done = execute([*RUN, script], tmp_path)

    assert "aten.addmm.default" in done.stdout
    assert "convolution" not in done.stdout
    assert done.stdout.endswith("\n[]\n"), "nothing waits for torch any longer"
    assert done.stderr == "qwenprof: 2 Conv3d modules ran as Linear in 4 calls\n"


def test_asking_for_torch_without_importing_it_applies_nothing_yet(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        """
        import importlib.util, sys
        print(importlib.util.find_spec("torch").name, "torch" in sys.modules)
        import torch
        from qwenprof.fix.patch import is_fixed
        print(is_fixed(), "exec_module" in vars(torch.__spec__.loader))
        """,
    )

    done = execute([*RUN, script], tmp_path, {"RANK": "3"})

    assert done.stdout == "torch False\nTrue False\n"
    assert done.stderr == "qwenprof (rank 3): no Conv3d ran as Linear in this process\n"


def test_every_process_counts_its_own(tmp_path: Path) -> None:
    """GIVEN a parent with 3 calls WHEN its children run 1, 0, 2, 4 and 5 THEN each says its own."""
    script = write(
        tmp_path,
        MODEL
        + """
    import multiprocessing

    def fork(times):
        child = os.fork()
        if child == 0:
            forward(times)
            sys.exit()
        print(os.waitpid(child, 0)[1], flush=True)

    if __name__ == "__main__":
        forward(3)
        fork(1)
        fork(0)
        for times, method in ((2, "fork"), (4, "spawn"), (5, "forkserver")):
            child = multiprocessing.get_context(method).Process(target=forward, args=(times,))
            child.start()
            child.join()
            print(child.exitcode)
    """,
    )

    done = execute([*RUN, script], tmp_path)

    assert outcome(done)[:2] == (0, "0\n" * 5)
    line = "1 Conv3d module ran as Linear in"
    assert without_process_ids(done.stderr) == [
        f"qwenprof (process): {line} 1 call",
        f"qwenprof (process): {line} 2 calls",
        f"qwenprof (process): {line} 4 calls",
        f"qwenprof (process): {line} 5 calls",
        f"qwenprof: {line} 3 calls",
    ]


def test_the_workers_of_a_data_loader_have_the_fix(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        MODEL
        + """
    from torch.utils.data import DataLoader, Dataset

    class Clips(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            with torch.no_grad():
                return conv(patches + index).shape[0] + index

    if __name__ == "__main__":
        for batch in DataLoader(Clips(), num_workers=2):
            print(batch)
        forward(1)
    """,
    )

    with_fix, plain = (execute([*command, script], tmp_path) for command in (RUN, PYTHON))

    assert outcome(with_fix)[:2] == outcome(plain)[:2]
    assert without_process_ids(with_fix.stderr.removesuffix(plain.stderr)) == [
        *["qwenprof (process): 1 Conv3d module ran as Linear in 3 calls"] * 2,
        "qwenprof: 1 Conv3d module ran as Linear in 1 call",
    ]


def test_another_environment_needs_no_qwenprof(tmp_path: Path) -> None:
    """GIVEN a Python with torch alone WHEN it is started as a command THEN it has the fix too."""
    venv.create(tmp_path / "other", symlinks=True)
    [packages] = (tmp_path / "other").rglob("site-packages")
    (packages / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    report = """
    print(sys.prefix, any("qwenprof" in entry for entry in sys.path))
    forward(2)
    """
    script = write(tmp_path, MODEL + report)
    path = f"{tmp_path / 'other' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    done = execute([*RUN, "python", script], tmp_path, {"PATH": path})

    assert done.stdout == f"{tmp_path / 'other'} False\n"
    assert done.stderr == "qwenprof: 1 Conv3d module ran as Linear in 2 calls\n"


DISTRIBUTED = """
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    forward(1 + torch.distributed.get_rank())
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("inside", [True, False])
def test_every_rank_of_torchrun_has_the_fix(tmp_path: Path, inside: bool) -> None:
    script = write(tmp_path, MODEL + DISTRIBUTED)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched_by_torchrun = [*PYTHON, *torchrun, "--no-python", *RUN, script]
    command = launched_by_torchrun if inside else [*RUN, *torchrun, script]

    done = execute(command, tmp_path)

    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("qwenprof")]
    expected = [
        "qwenprof (rank 0): 1 Conv3d module ran as Linear in 1 call",
        "qwenprof (rank 1): 1 Conv3d module ran as Linear in 2 calls",
    ]
    of_the_agent = ["qwenprof: no Conv3d ran as Linear in this process"]
    assert sorted(lines) == expected + ([] if inside else of_the_agent)


@pytest.mark.slow
def test_compiled_code_is_said_to_be_left_out(tmp_path: Path) -> None:
    compiled = "\n    torch.compile(conv, backend='eager')(patches)"
    script = write(tmp_path, MODEL + compiled)

    done = execute([*RUN, script], tmp_path)

    assert done.stderr.endswith("in this process, not counting compiled code\n")


def test_a_torch_that_is_not_pytorch_costs_one_line(tmp_path: Path) -> None:
    write(tmp_path, "answer = 42", "torch.py")
    script = write(tmp_path, "import torch; print(torch.answer)")

    done = execute([*RUN, "--quiet", script], tmp_path)

    assert (done.returncode, done.stdout) == (0, "42\n")
    assert done.stderr.startswith("qwenprof: the fix is not applied in ")
    assert done.stderr.count("\n") == 1


def test_the_fix_waits_for_an_import_of_torch_that_succeeds(tmp_path: Path) -> None:
    write(tmp_path, "import os; os.remove('needed')", "torch.py")
    script = write(
        tmp_path,
        """
        import pathlib, sys
        try:
            import torch
        except FileNotFoundError:
            print("failed", "qwenprof" in sys.modules)
        pathlib.Path("needed").touch()
        import torch
        print("imported", "qwenprof" in sys.modules)
        """,
    )

    done = execute([*RUN, "--quiet", script], tmp_path)

    assert (done.returncode, done.stdout) == (0, "failed False\nimported True\n")


@pytest.mark.parametrize("source", ["print('I was here')", "1 / 0", "import no_such_module"])
def test_the_sitecustomize_behind_ours_runs_as_before(tmp_path: Path, source: str) -> None:
    (tmp_path / "behind").mkdir()
    write(tmp_path / "behind", source, "sitecustomize.py")
    script = write(tmp_path, "import sys; print(sys.path, sys.modules.get('sitecustomize'))")
    environment = {"PYTHONPATH": str(tmp_path / "behind")}

    with_fix = execute([*RUN, "--quiet", script], tmp_path, environment)
    plain = execute([*PYTHON, script], tmp_path, environment)

    # the launcher is a Python program as well, and starts once before it becomes the other
    assert with_fix.stderr == plain.stderr * 2
    assert with_fix.stdout.endswith(plain.stdout)
    assert with_fix.returncode == plain.returncode == 0
