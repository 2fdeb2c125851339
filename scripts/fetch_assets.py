"""Get the model's assets, checked by hash, into the cache.

With FETCH=dataset or FETCH=calibration it is that dataset instead: the float graph depends on
neither.
"""

import os
from pathlib import Path

from harness.assets import AssetStore
from harness.errors import OK
from harness.lock import run_stage
from harness.manifest import load_manifest
from harness.options import asset_lock_path, read_flag, read_options
from harness.paths import ASSET_CACHE, MANIFEST, ROOT, shown
from harness.records import records_of, write_record

MODEL_ROLES = ("weights", "adapter", "vocab")
DATASET_ROLES = ("dataset",)
CALIBRATION_ROLES = ("calibration", "qat")


def main() -> int:
    options = read_options()
    store = AssetStore(
        load_manifest(MANIFEST),
        root=ROOT,
        cache=ASSET_CACHE,
        lock_file=asset_lock_path(os.environ),
        offline=read_flag(os.environ, "OFFLINE"),
        strict=read_flag(os.environ, "STRICT_ASSETS"),
        mirror=os.environ.get("ASSET_MIRROR") or None,
    )
    records = records_of(options)
    wanted = {
        "model": (MODEL_ROLES, records.model),
        "dataset": (DATASET_ROLES, records.dataset),
        "calibration": (CALIBRATION_ROLES, records.calibration),
    }
    roles, record = wanted[os.environ.get("FETCH") or "model"]
    if record is not None:
        fetch(store, options.profile.assets, roles, record)
    return OK


def fetch(
    store: AssetStore, assets: dict[str, str], roles: tuple[str, ...], record_file: Path
) -> None:
    """Obtain the assets that play `roles` and record them."""
    files = {}
    for role in roles:
        if role in assets:
            got = store.obtain(assets[role])
            files[role] = {
                "name": got.name,
                "path": shown(got.path),
                "sha256": got.sha256,
                "source": got.source,
            }
    write_record(record_file, {"lock": shown(asset_lock_path(os.environ)), "files": files})
    print(f"assets: {', '.join(files)} at hand and checked")


run_stage(main, __doc__)
