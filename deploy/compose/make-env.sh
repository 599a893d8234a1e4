#!/usr/bin/env bash
# Writes .env with fresh random secrets, readable by you alone; those that an existing one has are kept.
set -euo pipefail
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo ".env is there already; delete it first if you want new secrets (and the volumes: they know the old ones)" >&2
fi
umask 077
touch .env
word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in POSTGRES_PASSWORD S3_KEY S3_SECRET RAY_AUTH_TOKEN MLFLOW_PASSWORD MLFLOW_KEY; do
    grep -q "^$name=" .env || printf '%s=%s\n' "$name" "$(word)" >> .env
done
echo ".env written" >&2
