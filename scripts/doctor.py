"""Show what this machine has, what each backend says, and what runs by default."""

import platform
import re
import subprocess

from rich import box
from rich.console import Console
from rich.table import Table

from harness.backends import Backend, backends
from harness.devices import driver_cuda, find_accelerators
from harness.doctor import choose
from harness.errors import OK, run_command
from harness.host import cpu_facts
from harness.plugin_library import find_nvcc
from harness.provenance import RUNTIMES, versions

# Facts that tell devices of one name apart, and say what can be built for them.
SHOWN = ("memory.total", "compute_cap")


def cuda() -> str:
    """The driver's CUDA and the toolkit's."""
    driver, nvcc = driver_cuda(), find_nvcc()
    served = "no driver (libcuda.so.1)" if driver is None else f"driver serves {driver}"
    if nvcc is None:
        return f"{served}, no nvcc"
    printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release ([\d.]+)", printed)
    return f"{served}, nvcc {release[1] if release else 'of unknown version'}"


def availability(backend: Backend) -> str:
    """Whether it builds and runs here, and if not, why."""
    if (reason := backend.unavailable()) is not None:
        return f"no: {reason}"
    if (reason := backend.cannot_run()) is not None:
        return f"builds only: {reason}"
    return "yes"


def main() -> int:
    console = Console(highlight=False)

    def show(name: str, text: str) -> None:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=8)
        table.add_column(overflow="fold")
        table.add_row(name, text)
        console.print(table)

    cpu = cpu_facts()
    show("CPU", f"{cpu['name']}, {cpu['memory_gib']} GiB")
    # DEVICE counts each vendor's devices for itself.
    counts: dict[str, int] = {}
    for found in find_accelerators():
        index = counts[found.vendor] = counts.get(found.vendor, -1) + 1
        more = "".join(f", {name} {found.facts[name]}" for name in SHOWN if name in found.facts)
        show(f"DEVICE={index}", f"{found.name}, driver {found.driver}{more}")
    if not counts:
        show("devices", "no MR-V100 (ixsmi) or NVIDIA GPU (nvidia-smi) found")
    show("CUDA", cuda())
    show("Python", f"{platform.python_version()} on {platform.platform()}")
    show("runtimes", ", ".join(f"{name} {its}" for name, its in versions(RUNTIMES).items()))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("backend", "precisions", "available"):
        table.add_column(column)
    for backend in backends().values():
        table.add_row(backend.name, ", ".join(backend.precisions), availability(backend))
    console.print(table)
    choice = choose(None, None)
    console.print(f"default  PROFILE={choice.profile} BACKEND={choice.backend}: {choice.reason}")
    return OK


run_command(main, __doc__)
