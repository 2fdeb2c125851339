"""A command's options, read from the environment that make exports them into."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .backends import Backend, EngineOptions, find_backend
from .batches import AUTO, BatchSize
from .doctor import Choice, choose
from .errors import UserError
from .files import sha256_file
from .paths import ASSET_LOCK, RESULTS
from .profile import Profile, load_profile


@dataclass(frozen=True)
class Options:
    """What is asked for. `dataset` and `calibration` replace the profile's;
    `limit` keeps the first questions. `network`, `plugin_library` and `compute_capability` are
    those of `EngineOptions`."""

    profile: Profile
    backend: Backend
    precision: str
    batch: BatchSize
    device: int
    limit: int | None
    dataset: Path | None
    calibration: Path | None
    choice: Choice
    network: str
    plugin_library: Path | None
    compute_capability: str | None

    @property
    def engine(self) -> EngineOptions:
        """What the engine is built for."""
        return EngineOptions(
            precision=self.precision,
            batch=self.batch,
            sequence_length=self.profile.windows.sequence_length,
            hidden=self.profile.architecture.hidden,
            heads=self.profile.architecture.heads,
            device=self.device,
            network=self.network,
            plugin_library=self.plugin_library,
            compute_capability=self.compute_capability,
        )

    @property
    def graph_precision(self) -> str:
        """The precision of the ONNX graph that the engine is built from."""
        return self.backend.graph_precision(self.engine)

    @property
    def quantized(self) -> bool:
        """Whether that graph takes scales."""
        return self.graph_precision.startswith(("int8", "fp8"))

    @cached_property
    def calibration_suffix(self) -> str:
        """What tells quantized files apart from those of the profile's own calibration data."""
        if self.calibration is None or not self.quantized:
            return ""
        return f"-calibration-{sha256_file(self.calibration)[:8]}"

    @cached_property
    def variant_suffix(self) -> str:
        """What tells engines apart from those of the backend's own network and devices."""
        suffix = ""
        if self.network != self.backend.networks[0]:
            suffix += f"-network-{self.network}"
        if self.plugin_library is not None:
            suffix += f"-library-{sha256_file(self.plugin_library)[:8]}"
        if self.compute_capability is not None:
            suffix += f"-compute-{self.compute_capability}"
        return suffix

    @cached_property
    def run_name(self) -> str:
        """`<backend>-<precision>` and a readable suffix for each option that is not the
        profile's own, so that no run overwrites another."""
        suffix = self.variant_suffix
        if self.batch != self.profile.batch:
            suffix += f"-batch{self.batch}"
        if self.device:
            suffix += f"-device{self.device}"
        if self.limit is not None:
            suffix += f"-limit{self.limit}"
        if self.dataset is not None:
            # The content's hash keeps apart files of one name; only safe characters get through.
            stem = re.sub(r"[^A-Za-z0-9.]+", "_", self.dataset.name.removesuffix(".gz"))
            suffix += f"-{stem.removesuffix('.json')[:40]}-{sha256_file(self.dataset)[:8]}"
        return f"{self.backend.name}-{self.precision}{suffix}{self.calibration_suffix}"

    @property
    def run_folder(self) -> Path:
        """Where the run's files lie."""
        return RESULTS / self.profile.name / self.run_name

    def as_json(self) -> dict[str, str | int | None]:
        """The options as run.json records them."""
        return {
            "profile": self.profile.name,
            "backend": self.backend.name,
            "precision": self.precision,
            "batch": self.batch,
            "device": self.device,
            "limit": self.limit,
            "dataset": None if self.dataset is None else self.dataset.name,
            "calibration": None if self.calibration is None else self.calibration.name,
            "network": self.network,
            "plugin_library": None if self.plugin_library is None else self.plugin_library.name,
            "compute_capability": self.compute_capability,
        }


def read_options(
    environment: Mapping[str, str] | None = None, *, available: bool = True
) -> Options:
    """Options from `environment` (the process's own by default); empty counts as unset.

    Raises UserError for a name that is in no list, a number out of range or a missing file, and
    where the backend is not `available` to this Python, unless that shall not matter.
    """
    env = os.environ if environment is None else environment
    given_profile, given_backend = env.get("PROFILE") or None, env.get("BACKEND") or None
    choice = choose(given_profile, given_backend)
    profile = load_profile(choice.profile)
    backend = find_backend(choice.backend, available=available)
    network = _one_of(env, "NETWORK", backend, backend.networks)
    return Options(
        profile=profile,
        backend=backend,
        precision=_one_of(env, "PRECISION", backend, backend.precisions),
        batch=_batch(env, backend) or profile.batch,
        device=_number(env, "DEVICE", 0, 1023) or 0,
        limit=_number(env, "LIMIT", 1, 10**9),
        dataset=read_path(env, "DATASET"),
        calibration=read_path(env, "CALIBRATION"),
        choice=choice,
        network=network,
        # What an engine does not depend on is not looked at.
        plugin_library=read_path(env, "PLUGIN_LIBRARY") if network == "plugin" else None,
        compute_capability=_compute_capability(env, backend),
    )


def read_path(env: Mapping[str, str], name: str) -> Path | None:
    """The existing file that variable `name` names; None if it is unset."""
    value = env.get(name) or None
    if value is None:
        return None
    path = Path(value)
    if not path.is_file():
        raise UserError(f"{name} {value!r} is no file; check the path")
    return path.resolve()


def read_flag(env: Mapping[str, str], name: str) -> bool:
    """Whether variable `name` is 1; 0 and unset are no, anything else is an error."""
    value = env.get(name) or "0"
    if value not in ("0", "1"):
        raise UserError(f"{name} is {value!r}; it is 1 or 0")
    return value == "1"


def read_count(env: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """The whole number in variable `name`, from `least` to 9999; `default` if it is unset."""
    return _number(env, name, least, 9999) or default


def _number(
    env: Mapping[str, str], name: str, least: int, most: int, besides: str = ""
) -> int | None:
    value = env.get(name) or None
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", value, re.ASCII) or not least <= int(value) <= most:
        raise UserError(
            f"{name} is {value!r}; it is a whole number from {least} to {most}{besides}"
        )
    return int(value)


def _one_of(env: Mapping[str, str], name: str, backend: Backend, known: tuple[str, ...]) -> str:
    """The variable's value, which is one of `known`; the first of them if it is unset."""
    value = env.get(name) or known[0]
    if value not in known:
        raise UserError(
            f"backend {backend.name} has no {name.lower()} {value!r}; "
            f"{name} is one of {', '.join(known)}"
        )
    return value


def _batch(env: Mapping[str, str], backend: Backend) -> BatchSize | None:
    if not backend.token_budget:
        if env.get("BATCH") == AUTO:
            raise UserError(
                f"an engine of backend {backend.name} has a largest batch; give BATCH as a number"
            )
        return _number(env, "BATCH", 1, 4096)
    return AUTO if env.get("BATCH") == AUTO else _number(env, "BATCH", 1, 4096, f" or {AUTO}")


def _compute_capability(env: Mapping[str, str], backend: Backend) -> str | None:
    value = env.get("COMPUTE_CAPABILITY") or None
    if value is None:
        return None
    known = backend.compute_capabilities()
    if not known:
        raise UserError(
            f"backend {backend.name} builds for the device it runs on; leave COMPUTE_CAPABILITY out"
        )
    if value not in known:
        raise UserError(f"COMPUTE_CAPABILITY is {value!r}; it is one of {', '.join(known)}")
    return value


def asset_lock_path(env: Mapping[str, str]) -> Path:
    """The lock file that pins assets without a published hash (ASSET_LOCK)."""
    # Not resolved: a link is where the lock file is, and one in a circle is no lock file.
    return Path(env.get("ASSET_LOCK") or ASSET_LOCK).absolute()
