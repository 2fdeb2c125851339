"""Show what this machine has, what each backend says, and what runs by default."""

import platform

from rich import box
from rich.console import Console
from rich.table import Table

from harness.backends import backends
from harness.devices import find_accelerators
from harness.doctor import choose
from harness.errors import OK, run_command
from harness.host import cpu_facts


def main() -> int:
    console = Console(highlight=False)
    cpu = cpu_facts()
    console.print(f"CPU      {cpu['name']}, {cpu['memory_gib']} GiB", markup=False)
    accelerators = find_accelerators()
    for index, found in enumerate(accelerators):
        console.print(f"device {index} {found.name}, driver {found.driver}", markup=False)
    if not accelerators:
        console.print("devices  no MR-V100 (ixsmi) or NVIDIA GPU (nvidia-smi) found")
    console.print(f"Python   {platform.python_version()} on {platform.platform()}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("backend", "precisions", "available"):
        table.add_column(column)
    for backend in backends().values():
        reason = backend.unavailable()
        table.add_row(
            backend.name, ", ".join(backend.precisions), f"no: {reason}" if reason else "yes"
        )
    console.print(table)
    choice = choose(None, None)
    console.print(f"default  PROFILE={choice.profile} BACKEND={choice.backend}: {choice.reason}")
    return OK


run_command(main, __doc__)
