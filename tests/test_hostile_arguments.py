"""Whatever a make variable holds, it reaches no shell and no make function, and Python as it is.

The Makefile is the real one. In most tests the venv's Python is a recorder, which notes the
arguments and the environment that a recipe gives it: so every goal runs with every variable in
moments. Which goals and variables there are is read from the Makefile and `make help`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Checkout

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CANARY = "canary"
TOUCH = f"touch {CANARY}"

# In the shell or in make, each of them would leave the canary.
VALUES = {
    "a shell function": f"$(shell {TOUCH})",
    "a shell function in braces": f"${{shell {TOUCH}}}",
    "a shell function in an eval": f"$(eval X := $(shell {TOUCH}))",
    "a command substitution": f"$$({TOUCH})`{TOUCH}`",
    "an end of quotes": f"x'; {TOUCH}; '\"; {TOUCH}; \"",
    "a command after another": f"x; {TOUCH} && {TOUCH} || {TOUCH} | {TOUCH} & {TOUCH}",
    "a line after another": f"x\n{TOUCH}\n\t{TOUCH}\n",
    "a rule": f"x: ; {TOUCH}\nall infer:: ; {TOUCH}\nX != {TOUCH}\n",
    "an option": f"--eval=$(shell {TOUCH})",
    "options": f"-c '{TOUCH}' -f {CANARY} --{TOUCH}",
    "a redirection": f"x > {CANARY} 2>&1 < {CANARY} >> {CANARY}",
    "characters": "#%:|*?[a]~{a,b}=\\ é\u2028\U0001f600 $ $$ $x $(x) $@ $< \\",
}

RECORDER = """#!/bin/sh
mkdir -p records
printf '%s\\0' "$@" > records/$$.arguments
cat /proc/self/environ > records/$$.environment
case "$*" in
*scripts/plan.py)
    [ ! -e plan-fails ] || exit 2
    mkdir -p build
    for name in RUN MODEL ENGINE DATA ONNX; do
        echo "override $name := build/stub/$name"
    done > build/plan-$MAKE_PID.mk
    echo 'override PROFILE := minilm-sample' >> build/plan-$MAKE_PID.mk
    echo 'override BACKEND := ort-cpu' >> build/plan-$MAKE_PID.mk;;
esac
"""
# What the Makefile or the plan may replace.
REPLACED = {"PROFILE", "BACKEND", "BATCH", "PRECISION"}


def listed() -> list[str]:
    """The variables that the Makefile takes as text and exports."""
    (block,) = re.findall(r"^VARIABLES := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    return block.replace("\\\n", " ").split()


def told_by_help() -> tuple[list[str], list[str]]:
    """The goals and the variables of `make help`."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    goals, _, variables = done.stdout.partition("Variables (")
    names = re.findall(r"^  ([A-Z_]+(?:, [A-Z_]+)*) ", variables, re.MULTILINE)
    return re.findall(r"^  ([a-z-]+) ", goals, re.MULTILINE), [
        name for line in names for name in line.split(", ")
    ]


VARIABLES = listed()
GOALS, DOCUMENTED = told_by_help()


@dataclass
class Call:
    """What one recipe gave to Python."""

    arguments: list[str]
    environment: dict[str, str]


class Scratch:
    """A folder with the Makefile, all that it depends on, and the recorder in Python's place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy2(ROOT / "Makefile", root)
        for path in ROOT.glob("requirements*"):
            shutil.copy2(path, root)
        unwanted = shutil.ignore_patterns("__pycache__")
        for name in ("scripts", "configs"):
            shutil.copytree(ROOT / name, root / name, ignore=unwanted)
        self.fresh()

    def fresh(self) -> None:
        """As it was, without records; stamps are newer than what they depend on."""
        for folder in ("records", "build", "results"):
            shutil.rmtree(self.root / folder, ignore_errors=True)
        (self.root / "results").mkdir()
        for venv in (".venv", ".venv-cuda", ".venv-bench", ".venv-full", ".venv-supply"):
            python = self.root / venv / "bin" / "python"
            if not python.is_file():
                python.parent.mkdir(parents=True, exist_ok=True)
                python.write_text(RECORDER, encoding="utf-8")
                python.chmod(0o755)
            for stamp in re.findall(r"/(\.[a-z-]+)\b", MAKEFILE):
                (self.root / venv / stamp).touch()

    def make(
        self, goals: list[str], values: dict[str, str], by_environment: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run make with these variables; the canary must not appear."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        for name in VARIABLES:
            environment.pop(name, None)
        words = [f"{name}={value}" for name, value in values.items()]
        done = subprocess.run(
            ["make", "--keep-going", *goals, *([] if by_environment else words)],
            cwd=self.root,
            env={**environment, **(values if by_environment else {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not list(self.root.rglob(CANARY)), (goals, done.stdout, done.stderr)
        return done

    def calls(self) -> list[Call]:
        """What the recipes gave to Python, since the folder was fresh."""
        calls = []
        for path in sorted((self.root / "records").glob("*.arguments")):
            words = path.read_text(encoding="utf-8").split("\0")[:-1]
            pairs = path.with_suffix(".environment").read_text(encoding="utf-8").split("\0")[:-1]
            calls.append(Call(words, dict(pair.split("=", 1) for pair in pairs)))
        return calls


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    return Scratch(tmp_path_factory.mktemp("scratch"))


def test_help_and_makefile_know_the_same_variables() -> None:
    assert len(VARIABLES) > 30 and len(GOALS) > 20
    for name in DOCUMENTED:
        assert name in VARIABLES, f"{name} is documented, and not among the Makefile's VARIABLES"
    text = MAKEFILE[MAKEFILE.index("## Variables") :]
    for name in VARIABLES:
        assert re.search(rf"\b{name}\b", text), f"{name} is not in `make help`"


def test_no_other_variable_is_taken_from_outside() -> None:
    used = set(re.findall(r"\$[({]([A-Z][A-Z_]*)[)}]", MAKEFILE))
    made = set(re.findall(r"^\s*(?:export |override )*([A-Z_]+) [:?+!]?=", MAKEFILE, re.MULTILINE))
    # make's own, and what the plan brings.
    known = made | set(VARIABLES) | {"MAKECMDGOALS", "MAKE_RESTARTS", "PLAN_FAILED", "CURDIR"}
    known |= {"MODEL", "DATA", "CALIBRATED_ON", "SCALES", "ONNX", "ENGINE", "DEFAULTED"}
    assert used <= known, f"list {used - known} in VARIABLES, or the shell may get it"


def check(scratch: Scratch, values: dict[str, str], least: int) -> None:
    """At least `least` recipes ran, no argument comes from a variable, and all values arrived."""
    calls = scratch.calls()
    assert len(calls) >= least
    for call in calls:
        assert all(re.fullmatch(r"[\w/. =-]*", word) for word in call.arguments), call.arguments
        for name, value in values.items():
            if name not in REPLACED:
                assert call.environment[name] == value, (call.arguments, name)


@pytest.mark.parametrize(
    "by_environment",
    [False, pytest.param(True, marks=pytest.mark.full)],
    ids=["words", "environment"],
)
@pytest.mark.parametrize("kind", VALUES)
def test_every_variable_in_all_goals_at_once(
    scratch: Scratch, kind: str, by_environment: bool
) -> None:
    scratch.fresh()
    goals = [goal for goal in GOALS if not goal.startswith(("bench", "clean", "distclean"))]
    values = dict.fromkeys(VARIABLES, VALUES[kind])
    scratch.make(goals, values, by_environment)
    check(scratch, values, least=12)


@pytest.mark.parametrize("goal", GOALS)
def test_every_variable_in_every_goal(scratch: Scratch, goal: str) -> None:
    kinds = list(VALUES)
    for fails in (False, True):
        # Another value for each variable, and another one for each goal.
        first = 3 * GOALS.index(goal) + fails
        values = {
            name: VALUES[kinds[(first + number) % len(kinds)]]
            for number, name in enumerate(VARIABLES)
        }
        scratch.fresh()
        (scratch.root / "plan-fails").unlink(missing_ok=True)
        if fails:
            (scratch.root / "plan-fails").touch()
        scratch.make([goal], values, by_environment=fails)
        check(scratch, values, least=0)
    (scratch.root / "plan-fails").unlink()


@pytest.mark.full
@pytest.mark.parametrize("goal", GOALS)
def test_every_value_of_every_variable_in_every_goal(scratch: Scratch, goal: str) -> None:
    for value, by_environment in itertools.product(VALUES.values(), (False, True)):
        values = dict.fromkeys(VARIABLES, value)
        scratch.fresh()
        scratch.make([goal], values, by_environment)
        check(scratch, values, least=0)


@pytest.mark.parametrize("kind", VALUES)
def test_no_value_of_python_is_run(scratch: Scratch, kind: str) -> None:
    scratch.fresh()
    (scratch.root / ".venv" / ".ready").unlink()
    done = scratch.make(["doctor"], {"PYTHON": VALUES[kind]}, by_environment=False)
    assert done.returncode == 2
    assert "is no Python 3.10 to 3.12; name another interpreter" in done.stderr
    assert scratch.calls() == []


def test_the_recorder_sees_what_is_given(scratch: Scratch) -> None:
    """An honest value arrives as well, so that an empty record would be noticed."""
    scratch.fresh()
    done = scratch.make(["ask"], {"PASSAGE": "two words"}, by_environment=False)
    assert done.returncode == 0, done.stderr
    last = [call for call in scratch.calls() if call.arguments[-1] == "scripts/ask.py"]
    assert [call.environment["PASSAGE"] for call in last] == ["two words"]


def test_a_makefile_that_expands_is_found_out(scratch: Scratch) -> None:
    """Were the variables not taken as text, the canary would be there."""
    scratch.fresh()
    makefile = scratch.root / "Makefile"
    lines = [line for line in MAKEFILE.splitlines(True) if "$$(value $(v))" not in line]
    makefile.write_text("".join(lines), encoding="utf-8")
    try:
        with pytest.raises(AssertionError, match="ask"):
            scratch.make(["ask"], {"PASSAGE": VALUES["a shell function"]}, by_environment=False)
    finally:
        makefile.write_text(MAKEFILE, encoding="utf-8")
        (scratch.root / CANARY).unlink(missing_ok=True)


# ---- the real commands ---------------------------------------------------------------------

# A name that a file can have: all but the slash.
NAME = f"-r 'q\" $(shell {TOUCH}) `{TOUCH}`; {TOUCH}\n#%:$$x*?\\ é.json"


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_files_of_such_names(checkout: Checkout) -> None:
    folder = checkout.root / "hostile $(shell touch canary)"
    folder.mkdir(exist_ok=True)
    dataset, predictions, passage = (folder / f"{letter}{NAME}" for letter in "dpt")
    shutil.copy(checkout.dataset, dataset)
    shutil.copy(checkout.run / "predictions.json", predictions)
    passage.write_text("The bridge was opened in 1932 after eight years of work.")
    done = checkout.make("evaluate", f"PREDICTIONS={predictions}", f"DATASET={dataset}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("exact_match ")
    done = checkout.make(
        "ask", "PROFILE=minilm-sample", f"PASSAGE_FILE={passage}",
        QUESTION="When was the bridge\n`touch canary` opened?",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1932"), done.stdout
    assert not list(checkout.root.rglob(CANARY))
    shutil.rmtree(folder)


@pytest.mark.full
def test_a_run_over_a_dataset_of_such_a_name(checkout: Checkout) -> None:
    dataset = checkout.root / f"d{NAME}"
    shutil.copy(checkout.dataset, dataset)
    done = checkout.make("verify", "PROFILE=minilm-sample", f"DATASET={dataset}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify: pass" in done.stdout
    (folder,) = (checkout.root / "results/minilm-sample").glob("ort-cpu-fp32-d*")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", folder.name)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["options"]["dataset"] == dataset.name
    assert not list(checkout.root.rglob(CANARY))
    shutil.rmtree(folder)
    dataset.unlink()


@pytest.mark.full
@pytest.mark.parametrize("variable", VARIABLES)
def test_the_real_commands_with_such_values(checkout: Checkout, variable: str) -> None:
    given = {
        "PROFILE": "minilm-sample", "BACKEND": "ort-cpu",
        "PASSAGE": "The bridge was opened in 1932.", "QUESTION": "When was the bridge opened?",
    }  # fmt: skip
    for kind in ("a command after another", "a line after another", "a shell function", "options"):
        done = checkout.make("ask", **{**given, variable: VALUES[kind]})
        assert done.returncode in (0, 2), done.stderr
        assert len(error_lines(done)) == (done.returncode == 2), done.stderr
        assert not list(checkout.root.glob(CANARY))
