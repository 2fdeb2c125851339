"""Where things are: one place for the repository's layout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "configs" / "profiles"
MANIFEST = ROOT / "configs" / "assets.yaml"
ASSET_LOCK = ROOT / "configs" / "assets.lock.json"
GOLDEN = ROOT / "golden"
RESULTS = ROOT / "results"
BUILD = ROOT / "build"
ASSET_CACHE = BUILD / "assets"


def shown(path: Path) -> str:
    """`path` as a user types it: relative to the repository where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
