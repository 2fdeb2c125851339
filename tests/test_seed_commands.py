"""The commands with upstream's names, with a stand-in for make that records how it is called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FP16 = "infer_bert_base_squad_fp16_ixrt.sh"
INT8 = "infer_bert_base_squad_int8_ixrt.sh"
COMMANDS = ("prepare.sh", "build_engine.sh", "inference_squad.sh", FP16, INT8)
SHELLS = [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)]
PROFILE = "PROFILE=bert-base-squad"
FAKE_MAKE = f"""#!{sys.executable}
import json, os, pathlib, sys
call = {{"words": sys.argv[1:], "folder": os.getcwd(), "variables": dict(os.environ)}}
pathlib.Path(os.environ["CALLED"]).write_text(json.dumps(call))
print("make's output")
sys.exit(int(os.environ.get("MAKE_EXITS", "0")))
"""


@dataclass
class Commands:
    """A copy of the commands in a folder with a blank, and a fake make first on PATH."""

    root: Path
    elsewhere: Path
    called: Path

    def run(
        self, words: list[str], folder: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `words` in `folder`, by default one that has nothing to do with the checkout."""
        path = f"{self.root.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
        # Nothing else of this process's own environment, which make may have filled.
        basis = {"PATH": path, "LC_ALL": "C.UTF-8", "CALLED": str(self.called)}
        return subprocess.run(
            words,
            cwd=folder or self.elsewhere,
            env={**basis, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def command(
        self, name: str, *options: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the commands with sh."""
        return self.run(["sh", str(self.root / "scripts" / name), *options], **variables)

    def call(self) -> dict[str, Any]:
        """How make was called."""
        found: dict[str, Any] = json.loads(self.called.read_text(encoding="utf-8"))
        return found


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    root, elsewhere = tmp_path / "a check out", tmp_path / "some where"
    for folder in (root / "scripts", elsewhere, tmp_path / "bin"):
        folder.mkdir(parents=True)
    for name in (*COMMANDS, "upstream.sh"):
        shutil.copy2(ROOT / "scripts" / name, root / "scripts" / name)
    make = tmp_path / "bin" / "make"
    make.write_text(FAKE_MAKE, encoding="utf-8")
    make.chmod(0o755)
    return Commands(root, elsewhere, tmp_path / "called.json")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("prepare.sh", "v1_1", f"assets {PROFILE}"),
        ("build_engine.sh", "--bs 32", f"engine {PROFILE} PRECISION=fp16 BATCH=32"),
        ("build_engine.sh", "--bs 1 --int8", f"engine {PROFILE} PRECISION=int8 BATCH=1"),
        ("build_engine.sh", "--int8 --bs 4096", f"engine {PROFILE} PRECISION=int8 BATCH=4096"),
        (
            "inference_squad.sh",
            "--bs 32",
            f"infer evaluate verify {PROFILE} PRECISION=fp16 BATCH=32",
        ),
        (
            "inference_squad.sh",
            "--bs 8 --int8",
            f"infer evaluate verify {PROFILE} PRECISION=int8 BATCH=8",
        ),
        (FP16, "", f"all {PROFILE} BACKEND=ixrt PRECISION=fp16 BATCH=32"),
        (INT8, "", f"all {PROFILE} BACKEND=ixrt PRECISION=int8 BATCH=32"),
        (INT8, "--bs 64", f"all {PROFILE} BACKEND=ixrt PRECISION=int8 BATCH=64"),
    ],
)
def test_each_is_one_call_of_make(commands: Commands, name: str, options: str, words: str) -> None:
    done = commands.command(name, *options.split())
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "make's output\n")
    call = commands.call()
    assert call["words"] == words.split()
    assert Path(call["folder"]) == commands.root
    # make chooses the backend, unless the environment names one.
    assert "BACKEND" not in call["variables"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_shell_takes_it(commands: Commands, shell: str, name: str) -> None:
    for file in (name, "upstream.sh"):
        parsed = commands.run([shell, "-n", str(commands.root / "scripts" / file)])
        assert (parsed.returncode, parsed.stderr) == (0, "")
    option = ["v1_1"] if name == "prepare.sh" else ["--bs", "2"]
    done = commands.run([shell, str(commands.root / "scripts" / name), *option])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("how", ["relative", "beside", "executed"])
def test_it_finds_its_repository_from_anywhere(commands: Commands, how: str) -> None:
    scripts = commands.root / "scripts"
    words, folder = {
        "relative": (["sh", "a check out/scripts/prepare.sh"], commands.root.parent),
        "beside": (["sh", "prepare.sh"], scripts),
        "executed": ([str(scripts / "prepare.sh")], commands.elsewhere),
    }[how]
    # With CDPATH, cd may go elsewhere and print where.
    decoy = commands.root.parent / "decoy"
    (decoy / commands.root.name / "scripts").mkdir(parents=True)
    done = commands.run([*words, "v1_1"], folder, CDPATH=str(decoy))
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(commands.call()["folder"]) == commands.root


@pytest.mark.parametrize("name", ["build_engine.sh", "inference_squad.sh"])
def test_variables_pass_through(commands: Commands, name: str) -> None:
    given = {
        "BACKEND": "tensorrt",
        "DEVICE": "1",
        "OFFLINE": "1",
        "LIMIT": "$(touch hit) `touch hit`",
        "DATASET": "/data/a b.json",
    }
    done = commands.command(name, "--bs", "32", **given)
    assert done.returncode == 0, done.stderr
    call = commands.call()
    assert {name: call["variables"][name] for name in given} == given
    assert not [word for word in call["words"] if word.startswith("BACKEND")]
    assert not (commands.elsewhere / "hit").exists() and not (commands.root / "hit").exists()


def test_relative_paths_are_meant_from_where_the_user_is(commands: Commands) -> None:
    given = {
        "DATASET": "my data/dev.json",
        "CALIBRATION": "../train.json",
        "ASSET_LOCK": "lock.json",
        "ASSET_MIRROR": "mirror $HOME",
        "PLUGIN_LIBRARY": "libixrt_plugin.so",
        "PYTHON": "venv/bin/python",
    }
    assert commands.command("prepare.sh", "v1_1", **given).returncode == 0
    variables = commands.call()["variables"]
    for name, value in given.items():
        assert variables[name] == f"{commands.elsewhere}/{value}"


def test_urls_absolute_paths_and_program_names_stay(commands: Commands) -> None:
    given = {
        "DATASET": "/data/dev.json",
        "ASSET_MIRROR": "https://example.org/models",
        "PYTHON": "python3.12",
        "CALIBRATION": "",
    }
    assert commands.command("prepare.sh", "v1_1", **given).returncode == 0
    variables = commands.call()["variables"]
    assert {name: variables[name] for name in given} == given
    assert "ASSET_LOCK" not in variables


@pytest.mark.parametrize(
    ("options", "variable", "precision"),
    [("", "fp32", "fp32"), ("--int8", "fp32", "int8"), ("", "", "fp16")],
)
def test_an_option_wins_over_the_environment(
    commands: Commands, options: str, variable: str, precision: str
) -> None:
    done = commands.command(
        "build_engine.sh", "--bs", "3", *options.split(), PRECISION=variable, BATCH="7", fixed="x"
    )
    assert done.returncode == 0, done.stderr
    assert commands.call()["words"] == ["engine", PROFILE, f"PRECISION={precision}", "BATCH=3"]


def test_the_name_of_a_command_wins_over_the_environment(commands: Commands) -> None:
    given = {"PRECISION": "int8", "BATCH": "7", "PROFILE": "minilm-sample", "BACKEND": "ixrt"}
    assert commands.command(FP16, **given).returncode == 0
    expected = ["all", PROFILE, "BACKEND=ixrt", "PRECISION=fp16", "BATCH=32"]
    assert commands.call()["words"] == expected


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130])
@pytest.mark.parametrize("name", COMMANDS)
def test_it_exits_as_make_does(commands: Commands, name: str, code: int) -> None:
    option = ["v1_1"] if name == "prepare.sh" else ["--bs", "2"]
    assert commands.command(name, *option, MAKE_EXITS=str(code)).returncode == code


WRONG = [
    ("prepare.sh", [], "which SQuAD is missing"),
    ("prepare.sh", [""], "which SQuAD is missing"),
    ("prepare.sh", ["v2_0"], "SQuAD v2.0 is not reproduced here"),
    ("prepare.sh", ["v1.1"], "unknown SQuAD version 'v1.1'"),
    ("prepare.sh", ["v1_1", "v2_0"], "'v2_0' is one word too many"),
    *[
        (name, words, message)
        for name in ("build_engine.sh", "inference_squad.sh")
        for words, message in (
            ([], "--bs is missing"),
            (["--int8"], "--bs is missing"),
            (["--bs"], "--bs has no number behind it"),
            (["--int8", "--bs"], "--bs has no number behind it"),
        )
    ],
    *[
        (name, words, message)
        for name in ("build_engine.sh", "inference_squad.sh", FP16)
        for words, message in (
            (["--bs", "0"], "--bs is '0'"),
            (["--bs", "-1"], "--bs is '-1'"),
            (["--bs", "007"], "--bs is '007'"),
            (["--bs", "4097"], "--bs is '4097'"),
            (["--bs", "9" * 30], "--bs is '999"),
            (["--bs", "²"], "--bs is '²'"),
            (["--bs", "--int8"], "--bs is '--int8'"),
            (["--bs", "32; touch hit"], "--bs is '32; touch hit'"),
            (["--bs", "32", "--in8"], "unknown option '--in8'"),
            (["--bs", "32", "16"], "unknown option '16'"),
            (["--bs", "32", ""], "unknown option ''"),
            (["--bs=32"], "unknown option '--bs=32'"),
            (["two\nlines %s \\n"], "unknown option 'two lines %s \\n'"),
            (["--tgt", "87"], "--tgt is not taken"),
            (["--use_trt", "True"], "--use_trt is not taken"),
        )
    ],
    (FP16, ["--int8"], "this command runs fp16"),
    (INT8, ["--int8"], "this command runs int8"),
]


@pytest.mark.parametrize(("name", "words", "message"), WRONG)
def test_a_wrong_option_gets_one_line(
    commands: Commands, name: str, words: list[str], message: str
) -> None:
    done = commands.command(name, *words)
    assert_refused(commands, done, message)


@pytest.mark.parametrize("name", [FP16, INT8])
def test_ixrt_commands_run_no_other_backend(commands: Commands, name: str) -> None:
    done = commands.command(name, BACKEND="tensorrt")
    assert_refused(commands, done, "BACKEND is 'tensorrt'")


def test_without_make_it_says_so(commands: Commands) -> None:
    tools = commands.root.parent / "tools"
    tools.mkdir()
    for tool in ("sh", "dirname", "tr", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    done = commands.command("prepare.sh", "v1_1", PATH=str(tools))
    assert_refused(commands, done, "no make on PATH")


def assert_refused(
    commands: Commands, done: subprocess.CompletedProcess[str], message: str
) -> None:
    """One line with a cause and a next step, and no call of make."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    cause, _, next_step = line.rpartition("; ")
    assert cause and next_step
    assert not commands.called.exists()
    assert not list(commands.root.rglob("hit")) and not list(commands.elsewhere.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option_and_runs_nothing(
    commands: Commands, name: str, option: str
) -> None:
    done = commands.command(name, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name} ")
    assert max(map(len, done.stdout.splitlines())) <= 100
    expected = {"prepare.sh": ["v1_1"], FP16: ["--bs"], INT8: ["--bs"]}
    for word in expected.get(name, ["--bs", "--int8"]):
        assert f" {word}" in done.stdout
    assert not commands.called.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_it_can_be_executed(name: str) -> None:
    path = ROOT / "scripts" / name
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")


def test_the_makefile_has_what_they_call() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = {line.split()[0].rstrip(",") for line in done.stdout.splitlines() if line[:2] == "  "}
    goals = {"assets", "engine", "infer", "evaluate", "verify", "all"}
    variables = {"PROFILE", "BACKEND", "PRECISION", "BATCH", "DEVICE", "LIMIT", "DATASET"}
    assert goals | variables <= named
