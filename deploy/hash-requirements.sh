#!/usr/bin/env bash
# Writes deploy/requirements.txt: what the image installs, with the hash of the one file that fits it (Python 3.11, Linux,
# x86-64: run it there). Run it when constraints.txt or the dependencies in pyproject.toml have changed.
set -euo pipefail
cd "$(dirname "$0")/.."

report=$(mktemp)
trap 'rm -f "$report"' EXIT
python -m pip install --quiet --dry-run --ignore-installed --only-binary :all: --report "$report" -c constraints.txt setuptools '.[service]'
python - "$report" > deploy/requirements.txt <<'PYTHON'
import json
import sys

print("# Written by deploy/hash-requirements.sh: Python 3.11, Linux, x86-64.")
for item in sorted(json.load(open(sys.argv[1]))["install"], key=lambda item: item["metadata"]["name"].lower()):
    about, found = item["metadata"], item["download_info"].get("archive_info")
    if found:
        print(f"{about['name'].lower().replace('_', '-')}=={about['version']} --hash=sha256:{found['hashes']['sha256']}")
PYTHON
