#!/bin/sh
# Copy what a night has left to a folder of its own: keep.sh [NAME], by default the time in UTC.
set -eu
cd "$(dirname "$0")/.."
target="results/nightly/kept/${1:-$(date -u +%Y-%m-%dT%H%M%SZ)}"
mkdir -p "$target"
for file in report.html report.md metrics.prom verify.xml nightly/latest.json nightly/summary.txt; do
  [ ! -f "results/$file" ] || cp "results/$file" "$target/"
done
echo "kept in $target"
