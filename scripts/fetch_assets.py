"""Get every asset the profile needs, checked by hash, into the cache."""

import os

from harness.assets import AssetStore
from harness.errors import OK, run_command
from harness.manifest import load_manifest
from harness.options import asset_lock_path, read_flag, read_options
from harness.paths import ASSET_CACHE, MANIFEST, ROOT, shown
from harness.records import records_of, write_record


def main() -> int:
    options = read_options()
    store = AssetStore(
        load_manifest(MANIFEST),
        root=ROOT,
        cache=ASSET_CACHE,
        lock_file=asset_lock_path(os.environ),
        offline=read_flag(os.environ, "OFFLINE"),
        mirror=os.environ.get("ASSET_MIRROR") or None,
    )
    record = {}
    for role, name in options.profile.assets.items():
        if role == "dataset" and options.dataset is not None:
            continue
        got = store.obtain(name)
        record[role] = {"path": shown(got.path), "sha256": got.sha256, "source": got.source}
    write_record(records_of(options).assets, record)
    print(f"assets: {', '.join(record)} at hand and checked")
    return OK


run_command(main, __doc__)
