"""What is installed is what was locked: versions, hashes, wheels; and what is known against it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import asset_bench
import pytest
from asset_bench import BODY, OTHER, Bench, Site, asset, make_tar, make_wheel, whole
from conftest import Checkout
from full_tools import supply_tool
from packaging.markers import Marker
from packaging.requirements import Requirement

from harness.errors import UserError, one_line
from harness.files import sha256_file, to_json
from harness.manifest import Asset, TarMember, UrlSource, WheelMember
from harness.paths import ROOT
from harness.records import Records, drop_stale
from lock_requirements import FULL, LOCKS, OLDEST, PLUGIN, PYTHONS, SUPPLY, resolve

bench = asset_bench.bench
site = asset_bench.site

# Without a lock: what torch is built for is the machine's choice, NVIDIA's packages fetch their
# libraries from elsewhere while they are installed, and the MLflow client is for who wants it.
UNLOCKED = {
    f"requirements-{name}.txt"
    for name in ("bench", "torch", "train", "nv", "nv-10", "nv-8.6", "mlflow")
}
# Part of others.
INCLUDED = {"requirements-common.txt"}
MACHINES = ("x86_64", "aarch64")
# What one venv holds, by what the Makefile installs together.
TOGETHER = [(name, *agreeing) for name, agreeing in LOCKS.items()]
# What pip-audit and uv say of a server that does not answer.
UNREACHABLE = re.compile("error sending request|ConnectionError|Max retries|timed out")


@dataclass(frozen=True)
class Pin:
    """One line of a requirements file or a lock."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]


def read_pins(path: Path) -> Iterator[Pin]:
    """The pins of `path` and of the files that it includes; every line is an exact one."""
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        if line.startswith("-r "):
            yield from read_pins(path.with_name(line[3:]))
        elif line:
            words, *hashes = (part.strip() for part in line.split("--hash="))
            wanted = Requirement(words)
            version = re.fullmatch(r"==([0-9][A-Za-z0-9.+!]*)", str(wanted.specifier))
            assert version and not wanted.url, line
            yield Pin(wanted.name.lower(), version[1], wanted.marker, frozenset(hashes))


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }


def active(path: Path, python: str, machine: str) -> list[Pin]:
    """The pins that count there."""
    there = environment(python, machine)
    return [p for p in read_pins(path) if p.marker is None or p.marker.evaluate(there)]


def pythons_of(name: str) -> tuple[str, ...]:
    """The Pythons that a lock is made for."""
    return PYTHONS[PYTHONS.index(OLDEST.get(name, PYTHONS[0])) :]


def test_every_requirements_file_has_a_lock_or_a_reason() -> None:
    texts = {path.name for path in ROOT.glob("requirements*.txt")}
    locks = {path.stem for path in ROOT.glob("requirements*.lock")}
    assert locks == LOCKS.keys()
    assert texts == {f"{name}.txt" for name in locks} | UNLOCKED | INCLUDED


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_its_requirements_by_hash(name: str) -> None:
    path = ROOT / f"{name}.lock"
    for python in pythons_of(name):
        for machine in MACHINES:
            locked = active(path, python, machine)
            versions = {pin.name: pin.version for pin in locked}
            assert len(versions) == len(locked), "a package has two versions"
            for pin in active(ROOT / f"{name}.txt", python, machine):
                assert versions.get(pin.name) == pin.version, f"{pin.name}: run `make lock`"
    for pin in read_pins(path):
        assert pin.hashes, pin.name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in pin.hashes), pin.name
    text = path.read_text(encoding="utf-8")
    assert "make lock" in text.partition("==")[0]
    # Which index it comes from is for the machine to say.
    assert "://" not in text and "--index-url" not in text


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
def test_what_is_installed_together_agrees(names: tuple[str, ...]) -> None:
    for python in pythons_of(names[0]):
        for machine in MACHINES:
            versions: dict[str, set[str]] = {}
            for name in names:
                for pin in active(ROOT / f"{name}.lock", python, machine):
                    versions.setdefault(pin.name, set()).add(pin.version)
            assert {n: v for n, v in versions.items() if len(v) > 1} == {}, (python, machine)


def test_make_installs_what_is_locked() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installed = set(re.findall(r"requirements[\w.-]*\.txt", re.sub("##.*", "", makefile)))
    assert installed == {"requirements-bench.txt", "requirements-torch.txt"}
    assert set(re.findall(r"(requirements[\w.-]*)\.lock", makefile)) == LOCKS.keys() - {
        # tests/plugin_build.py installs it.
        PLUGIN
    }


# ---- the installer -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment that borrows its pip from the Python it is made by."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    options = ["--without-pip", "--system-site-packages"]
    subprocess.run([sys.executable, "-m", "venv", *options, folder], check=True)
    return folder


def make_sdist(path: Path) -> Path:
    """A source package whose setup.py tells of having been run."""
    program = f"open({str(path.with_name('ran'))!r}, 'w')\nimport setuptools\nsetuptools.setup()\n"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (
            ("PKG-INFO", "Metadata-Version: 2.1\nName: lockable\nVersion: 1.0\n"),
            ("setup.py", program),
        ):
            member = tarfile.TarInfo(f"lockable-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize(
    ("kind", "code"), [("right", 0), ("another hash", 2), ("no hash", 2), ("source", 2)]
)
def test_only_wheels_with_the_right_hash_are_installed(
    venv: Path, tmp_path: Path, kind: str, code: int
) -> None:
    about = "Metadata-Version: 2.1\nName: lockable\nVersion: 1.0\n"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {"METADATA": about.encode(), "WHEEL": tag.encode(), "RECORD": b""}
    if kind == "source":
        package = make_sdist(tmp_path / "lockable-1.0.tar.gz")
    else:
        package = make_wheel(
            tmp_path / "lockable-1.0-py3-none-any.whl",
            {f"lockable-1.0.dist-info/{name}": content for name, content in members.items()},
        )
    content = package.read_bytes() if kind != "another hash" else b"another"
    digest = hashlib.sha256(content).hexdigest()
    locked = tmp_path / "some.lock"
    locked.write_text("lockable==1.0" + (f" --hash=sha256:{digest}" if kind != "no hash" else ""))
    stamp = tmp_path / "stamp"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_venv.py", venv, stamp, locked],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PIP_")},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert stamp.exists() == (code == 0)
    assert not (tmp_path / "ran").exists()
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(ours) == (1 if code else 0), done.stderr
    found = list(venv.glob("lib/*/site-packages/lockable-1.0.dist-info"))
    assert len(found) == (1 if code == 0 else 0)
    for folder in found:
        shutil.rmtree(folder)


# ---- assets, with STRICT_ASSETS=1 ----------------------------------------------------------


@pytest.mark.parametrize("missing", ["both", "size"])
def test_an_asset_that_the_manifest_does_not_pin_is_refused(
    bench: Bench, site: Site, missing: str
) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", whole())))
    if missing == "size":
        wanted = replace(wanted, sha256=hashlib.sha256(BODY).hexdigest())
    bench.store(wanted).obtain("a")
    before = bench.lock_file.read_bytes()
    # Though it lies in the cache, and the lock file may pin it.
    assert bench.refusal(wanted, strict=True) == (
        "STRICT_ASSETS=1 refuses asset a: the manifest has no size and sha256 for a; add them to "
        "configs/assets.yaml, or leave STRICT_ASSETS out"
    )
    assert len(site.requests) == 1
    assert bench.lock_file.read_bytes() == before
    good = asset("a", *wanted.sources, published=BODY)
    assert bench.store(good, strict=True).obtain("a").size == len(BODY)


def test_an_alternative_that_is_pinned_is_used(bench: Bench, site: Site) -> None:
    first = asset("first", UrlSource(site.plan("/a", whole())))
    second = asset("second", UrlSource(site.plan("/b", whole(OTHER))), published=OTHER)
    either = Asset("either", "a test asset", "Apache-2.0", alternatives=("first", "second"))
    assert bench.store(either, first, second, strict=True).obtain("either").name == "second"
    assert [path for path, _ in site.requests] == ["/b"]
    assert bench.pins() == {}


def test_an_archive_that_is_not_pinned_is_left_closed(bench: Bench) -> None:
    tar = asset("b.tar", UrlSource("https://assets.invalid/b.tar"))
    wanted = asset("a.bin", TarMember("b.tar", "a.bin"), published=BODY)
    make_tar(bench.cache / "b.tar", ("a.bin", BODY))
    text = bench.refusal(wanted, tar, strict=True)
    assert "not tried, STRICT_ASSETS=1 and the tar has no size and sha256" in text
    assert bench.pins() == {}
    assert bench.store(wanted, tar).obtain("a.bin").size == len(BODY)


def test_what_else_a_wheel_holds_is_kept_only_if_it_is_pinned(bench: Bench) -> None:
    def fetch(requirement: str, folder: Path) -> Path:
        return make_wheel(folder / "wheels" / "p.whl", {"p/a.bin": BODY, "p/b.bin": OTHER})

    a = asset("a.bin", WheelMember("some-package==1.0", "p/a.bin"), published=BODY)
    b = asset("b.bin", WheelMember("some-package==1.0", "p/b.bin"))
    bench.store(a, b, strict=True, fetch_wheel=fetch).obtain("a.bin")
    assert bench.cached() == ["a.bin"]
    assert bench.pins() == {}


def test_a_record_of_a_refused_asset_is_dropped(tmp_path: Path) -> None:
    file, record = tmp_path / "a.bin", tmp_path / "model.json"
    file.write_bytes(BODY)
    entry = {"name": "a", "path": str(file), "sha256": sha256_file(file), "source": "the cache"}
    content = to_json({"lock": str(tmp_path / "lock.json"), "files": {"weights": entry}})
    records = Records(record, None, None, None, tmp_path / "onnx.json", tmp_path / "engine.json")
    for refused, kept in ((("b",), True), (("a", "b"), False)):
        record.write_text(content, encoding="utf-8")
        drop_stale(records, tmp_path / "run", tmp_path / "lock.json", refused)
        assert record.exists() == kept


def test_make_refuses_what_is_not_pinned(checkout: Checkout) -> None:
    done = checkout.make("assets", "PROFILE=bert-base-squad", "BACKEND=ort-cpu", "STRICT_ASSETS=1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: STRICT_ASSETS=1 refuses asset bert-base/weights: the manifest has no size and "
        "sha256 for bert-base/bert_base_squad.onnx or bert-base/model.safetensors; add them to "
        "configs/assets.yaml, or leave STRICT_ASSETS out"
    )
    done = checkout.make("assets", "PROFILE=minilm-sample", "STRICT_ASSETS=1")
    assert done.returncode == 0, done.stderr
    done = checkout.make("assets", "PROFILE=minilm-sample", "STRICT_ASSETS=yes")
    assert done.returncode == 2
    assert "STRICT_ASSETS is 'yes'" in done.stderr


# ---- with the network ----------------------------------------------------------------------


@pytest.mark.full
def test_the_requirements_still_resolve_to_the_locks(tmp_path: Path) -> None:
    for path in (*ROOT.glob("requirements*.txt"), *ROOT.glob("requirements*.lock")):
        shutil.copy(path, tmp_path)
    try:
        resolve(supply_tool("uv"), tmp_path)
    except UserError as error:
        if UNREACHABLE.search(str(error)):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    for name in LOCKS:
        old, new = (
            {(pin.name, pin.version, str(pin.marker)): pin.hashes for pin in read_pins(path)}
            for path in (ROOT / f"{name}.lock", tmp_path / f"{name}.lock")
        )
        assert old.keys() == new.keys()
        # A release may have got more wheels since; none may have been replaced.
        assert all(old[pin] <= new[pin] for pin in old)


# The oldest glibc that each machine's wheels are for, and which locks are for x86-64 alone.
GLIBC = {"x86_64": "manylinux_2_28", "aarch64": "manylinux_2_35"}
X86_ONLY = {FULL}


@pytest.mark.full
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_package_has_a_wheel(tmp_path: Path, python: str, machine: str) -> None:
    names = [n for n in LOCKS if python in pythons_of(n)]
    for name in names if machine == "x86_64" else [n for n in names if n not in X86_ONLY]:
        done = subprocess.run(
            [
                supply_tool("uv"), "pip", "install", "--dry-run", "--target", tmp_path,
                "--require-hashes", "--only-binary=:all:", f"--python-version={python}",
                f"--python-platform={machine}-{GLIBC[machine]}",
                *(["--no-deps"] if name == PLUGIN else []), f"--requirements={name}.lock",
            ],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if UNREACHABLE.search(done.stderr):
            pytest.skip(f"the package index cannot be reached: {one_line(done.stderr)[-300:]}")
        assert done.returncode == 0, (name, done.stderr)


@pytest.mark.full
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("apart", [False, True], ids=["harness", "supply"])
def test_no_vulnerability_is_known(tmp_path: Path, python: str, apart: bool) -> None:
    pins = {
        pin.name: pin
        for name in LOCKS
        if python in pythons_of(name) and (name == SUPPLY) == apart
        for pin in active(ROOT / f"{name}.lock", python, "x86_64")
    }
    listed = tmp_path / "requirements.txt"
    lines = [
        f"{pin.name}=={pin.version} {' '.join(f'--hash={text}' for text in pin.hashes)}\n"
        for pin in pins.values()
    ]
    listed.write_text("".join(lines), encoding="utf-8")
    done = subprocess.run(
        [
            supply_tool("pip-audit"), "--requirement", listed, "--disable-pip",
            "--require-hashes", "--progress-spinner=off", "--format=json",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not done.stdout and UNREACHABLE.search(done.stderr):
        pytest.skip(f"the vulnerability service cannot be reached: {one_line(done.stderr)[-300:]}")
    audited = json.loads(done.stdout)["dependencies"]
    assert {one["name"] for one in audited} == pins.keys()
    unknown = [one["name"] for one in audited if "skip_reason" in one]
    if len(unknown) == len(audited):
        pytest.skip(f"the index here knows no vulnerabilities: {audited[0]['skip_reason']}")
    assert unknown == []
    found = [f"{one['name']} {one['version']}: {v['id']}" for one in audited for v in one["vulns"]]
    assert found == []


VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
version = SchemaVersion.from_version(sys.argv[1])
error = JsonStrictValidator(version).validate_str(sys.stdin.read())
sys.exit(0 if error is None else str(error)[:2000])
"""


@pytest.mark.full
def test_the_bill_of_materials_lists_the_lock() -> None:
    supply_tool("cyclonedx-py")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    written = []
    for _ in range(2):
        subprocess.run(["make", "sbom"], cwd=ROOT, env=clean, check=True, capture_output=True)
        written.append((ROOT / "results" / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert written[0] == written[1]
    bill = json.loads(written[0])
    assert bill["bomFormat"] == "CycloneDX"
    command = [supply_tool("python"), "-c", VALIDATE, bill["specVersion"]]
    done = subprocess.run(command, input=written[0], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = {(part["name"].lower(), part["version"]) for part in bill["components"]}
    assert listed == {(p.name, p.version) for p in read_pins(ROOT / "requirements.lock")}
    # A component that is not as the schema wants it would pass if nothing were checked.
    broken = written[0].replace('"bomFormat": "CycloneDX"', '"bomFormat": "Cyclone"')
    done = subprocess.run(command, input=broken, text=True, capture_output=True, check=False)
    assert broken != written[0] and done.returncode == 1
