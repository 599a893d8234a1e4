#!/usr/bin/env bash
# Writes .env with fresh random secrets, readable by you alone; an existing one is kept.
set -euo pipefail
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo ".env is there already; delete it first if you want new secrets (and the volumes: they know the old ones)" >&2
    exit 0
fi
umask 077
word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in POSTGRES_PASSWORD S3_KEY S3_SECRET RAY_AUTH_TOKEN; do
    printf '%s=%s\n' "$name" "$(word)"
done > .env
echo ".env written" >&2
