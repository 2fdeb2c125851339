"""The image recipes and NVIDIA's requirements, read as text: no container runs here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "docker").glob("*Dockerfile"))
GROUPS = {
    "requirements-nv-8.6.txt": "8.6",
    "requirements-nv-10.txt": "10",
    "requirements-nv.txt": "11",
}
DIGEST = r"sha256:[0-9a-f]{64}"
Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Instructions and their arguments: comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    split = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [(name.upper(), " ".join(rest.split())) for name, _, rest in split]


def arguments(recipe: list[Instruction]) -> dict[str, str]:
    """The defaults of ARG."""
    pairs = (rest.partition("=") for name, rest in recipe if name == "ARG")
    return {name: value for name, _, value in pairs}


def bases(recipe: list[Instruction], **given: str) -> list[str]:
    """What the FROMs name once `given` and the defaults are filled in."""
    known = {**arguments(recipe), **given}

    def fill(text: str) -> str:
        text = re.sub(
            r"\$\{(\w+):\+([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
            lambda m: m[2] if known[m[1]] else "",
            text,
        )
        return re.sub(r"\$\{?(\w+)\}?", lambda m: known[m[1]], text)

    return [fill(rest.split()[0]) for name, rest in recipe if name == "FROM"]


def complaints(text: str, root: Path) -> Iterator[str]:
    """What is wrong with a recipe that is built in the folder `root`."""
    recipe = instructions(text)
    if "BASE_DIGEST" not in arguments(recipe):
        yield "no ARG for the digest"
    pinned = f"sha256:{'0' * 64}"
    for base in (*bases(recipe, BASE_DIGEST=""), *bases(recipe, BASE_DIGEST=pinned)):
        name, _, digest = base.partition("@")
        tag = name.rpartition(":")[2]
        if "/" in tag or tag == "latest" or not tag:
            yield f"{base} has no fixed tag"
        if digest not in ("", pinned):
            yield f"{base} has no digest"
    if not all(base.endswith(f"@{pinned}") for base in bases(recipe, BASE_DIGEST=pinned)):
        yield "a base without the digest"
    for name, rest in recipe:
        words = rest.split()
        if name == "RUN" and re.search(r"\b(curl|wget)\b.*\|\s*(\w*/)*(ba|da)?sh\b", rest):
            yield "something downloaded is run unseen"
        if name == "RUN" and re.search(r"\b(curl|wget)\b", rest):
            yield "a download without a hash"
        if name == "ADD" and not re.match(rf"--checksum={DIGEST} https://", rest):
            yield "ADD without a hash"
        if name == "COPY":
            missing = [w for w in words[:-1] if w[:2] != "--" and not (root / w).is_file()]
            yield from (f"COPY of {word}, which is missing" for word in missing)
        for command in re.split("&&|;", rest) if name == "RUN" else []:
            if " pip install " in command and not (
                "--no-deps" in command and re.search("--(constraint|requirement) ", command)
            ):
                yield f"packages without exact versions: {command}"
    users = [rest for name, rest in recipe if name == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        yield "it runs as root"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_nothing_is_wrong_with_a_recipe(path: Path) -> None:
    assert list(complaints(path.read_text(encoding="utf-8"), ROOT)) == []


GOOD = """
ARG BASE_DIGEST=
FROM example/image:1.2${BASE_DIGEST:+@${BASE_DIGEST}} AS first
USER 1:1
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        (":1.2", ":latest", "no fixed tag"),
        (":1.2", "", "no fixed tag"),
        ("ARG BASE_DIGEST=", "ARG OTHER=", "no ARG for the digest"),
        ("@${BASE_DIGEST}", "@x${BASE_DIGEST}", "has no digest"),
        ("${BASE_DIGEST:+@${BASE_DIGEST}}", "", "a base without the digest"),
        ("USER 1:1", "FROM another:3\nUSER 1", "a base without the digest"),
        ("USER 1:1", "RUN curl https://a.example/x | \\\n  sh\nUSER 1", "run unseen"),
        ("USER 1:1", "RUN wget -qO- a.example/x|/bin/bash\nUSER 1", "run unseen"),
        ("USER 1:1", "RUN curl -o x https://a.example/x\nUSER 1", "download without a hash"),
        ("USER 1:1", "ADD https://a.example/x /x\nUSER 1", "ADD without a hash"),
        ("USER 1:1", "COPY nonesuch.txt /x\nUSER 1", "nonesuch.txt, which is missing"),
        ("USER 1:1", "RUN a && python3 -m pip install b\nUSER 1", "without exact versions"),
        ("USER 1:1", "", "runs as root"),
        ("USER 1:1", "USER 1:1\nUSER root", "runs as root"),
    ],
)
def test_what_is_wrong_is_found(old: str, new: str, complaint: str | None) -> None:
    found = list(complaints(GOOD.replace(old, new), ROOT))
    if complaint is None:
        assert found == []
    else:
        assert any(complaint in one for one in found), found


def recipe_named(name: str) -> list[Instruction]:
    return instructions((ROOT / "docker" / name).read_text(encoding="utf-8"))


def test_the_bases_are_upstreams_image_and_a_current_one() -> None:
    old, new = recipe_named("tensorrt-8.6.Dockerfile"), recipe_named("tensorrt-11.Dockerfile")
    assert bases(old) == ["nvcr.io/nvidia/tensorrt:23.04-py3"]
    pin = f"sha256:{'1' * 64}"
    assert bases(old, BASE_DIGEST=pin) == [f"nvcr.io/nvidia/tensorrt:23.04-py3@{pin}"]
    (base,) = bases(new)
    assert re.fullmatch(rf"nvcr\.io/nvidia/tensorrt:26\.07-py3@{DIGEST}", base)
    assert bases(new, BASE_TAG="26.08-py3")[0].startswith("nvcr.io/nvidia/tensorrt:26.08-py3@")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_context_holds_what_is_copied_and_nothing_else(path: Path) -> None:
    ignore = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8").split("\n")
    rules = [line for line in ignore if line and not line.startswith("#")]
    copied = [rest.split()[0] for name, rest in recipe_named(path.name) if name == "COPY"]
    assert rules == ["*", *(f"!{name}" for name in copied)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_checks_in_a_recipe_are_python(path: Path) -> None:
    text = " ".join(rest for name, rest in recipe_named(path.name) if name == "RUN")
    snippets = re.findall(r'python3[.\d]* -c "([^"]*)"', text)
    assert snippets
    for snippet in snippets:
        compile(snippet, path.name, "exec")
        assert "tensorrt.__version__" in snippet


def pins(name: str) -> dict[str, str]:
    """The packages of a requirements file, each of which has one exact version."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9]+(\.[0-9]+)+(\.post[0-9]+)?", line), line
    return dict(line.split("==") for line in found)


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_has_one_tensorrt_and_one_cuda(name: str) -> None:
    versions = pins(name)
    tensorrt = {
        package: version.partition(".post")[0]
        for package, version in versions.items()
        if package.startswith("tensorrt")
    }
    assert len(set(tensorrt.values())) == 1, tensorrt
    (version,) = set(tensorrt.values())
    assert version.startswith(f"{GROUPS[name]}.")
    assert versions["cuda-python"] == versions["cuda-bindings"]
    cuda = versions["cuda-python"].partition(".")[0]
    named = {match[1] for package in tensorrt if (match := re.search(r"-cu(\d+)", package))}
    # Of TensorRT 8.6 there is only a package for CUDA 12.
    assert named <= {cuda} and cuda == ("13" if version.startswith("11.") else "12")
    for part in ("bindings", "libs") if named else ("bindings",):
        assert [package for package in tensorrt if package.endswith(part)]


def test_images_and_requirements_agree() -> None:
    assert (
        arguments(recipe_named("tensorrt-11.Dockerfile"))["TENSORRT_VERSION"]
        == (pins("requirements-nv.txt")["tensorrt-cu13"])
    )
    checks = " ".join(rest for _, rest in recipe_named("tensorrt-8.6.Dockerfile"))
    bindings = pins("requirements-nv-8.6.txt")["tensorrt-bindings"]
    assert f"tensorrt.__version__ == '{bindings}'" in checks
    major, minor, patch = map(int, bindings.split("."))
    assert f"version == {1000 * major + 100 * minor + patch}" in checks
    (new,) = [
        rest for name, rest in recipe_named("tensorrt-11.Dockerfile") if "pip install" in rest
    ]
    installed = set(new.rpartition("requirements-nv.txt")[2].split())
    assert installed == {p for p in pins("requirements-nv.txt") if p.startswith("cuda-")}


def test_the_readme_names_every_recipe_and_says_what_was_not_done() -> None:
    text = (ROOT / "docker" / "README.md").read_text(encoding="utf-8")
    for path in RECIPES:
        assert f"docker build --file docker/{path.name}" in text
        for base in bases(recipe_named(path.name)):
            assert base.partition("@")[0] in text
    assert "never built" in text
    assert "imagetools inspect" in text
    assert "BASE_DIGEST=sha256:" in text
