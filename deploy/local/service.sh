#!/usr/bin/env bash
# The whole service on one machine, loopback only: MLflow on PostgreSQL, a Ray head and workers.
#   service.sh up [WORKERS] | status | env | down | destroy
# TUNER_LOCAL (default ~/tuner-local) holds everything; TUNER_LOCAL_PORT (default 17600) is the first of 40 ports.
set -euo pipefail
umask 077

self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")   # however it was called, also from its own folder
typed=$(printf %q "$self")                              # as a shell reads it
dir=${TUNER_LOCAL:-$HOME/tuner-local}
base=${TUNER_LOCAL_PORT:-17600}
pg_port=$base mlflow_port=$((base + 1)) gcs_port=$((base + 2)) dashboard_port=$((base + 3))
head_ip=127.0.0.2          # Ray replaces 127.0.0.1 by the machine's outside address; other loopback addresses stay
worker_cpus=${TUNER_LOCAL_CPUS:-1}
run=$dir/run log=$dir/log
: "${PYTHON:=$(command -v python || command -v python3)}"
bin=$(dirname "$PYTHON")

say() { printf '%s\n' "$*" >&2; }
die() { say "Error: $*"; exit 1; }

find_postgres() {
    local place
    for place in $(compgen -G '/usr/lib/postgresql/*/bin' | sort -rV) $(dirname "$(command -v initdb || echo /nowhere/x)"); do
        if [ -x "$place/initdb" ]; then pg=$place; return; fi
    done
    die "PostgreSQL is not installed; on Debian: apt-get install -y postgresql"
}

needs() {
    find_postgres
    "$PYTHON" -c 'import ray, mlflow, tuner' 2>/dev/null || die "$PYTHON lacks the project; activate its environment or set PYTHON"
    "$PYTHON" -c 'import psycopg, flask_wtf' 2>/dev/null || die "$PYTHON lacks psycopg or flask_wtf; install the project with its service extra: pip install -e '.[service]'"
}

# PostgreSQL refuses to run as root: then it runs as the user that Debian's package made.
as_pg() {
    if [ "$(id -u)" -eq 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

secret() { [ -s "$1" ] || "$PYTHON" -c 'import secrets; print(secrets.token_hex(24), end="")' > "$1"; }

settings() {
    export TUNER_HOME=$dir/home MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow_port MLFLOW_TRACKING_USERNAME=tuner
    export RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=4   # a silent node: half a minute, not one
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$dir/ray-token RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard_port
}

alive() { [ -f "$run/$1" ] && kill -0 "$(cat "$run/$1")" 2>/dev/null; }

start() {  # NAME COMMAND...: in the background, a session of its own, output to a log file
    local name=$1
    shift
    setsid nohup "$@" > "$log/$name" 2>&1 < /dev/null &
    echo $! > "$run/$name"
}

wait_for() {  # WHAT NAME SECONDS COMMAND...
    local what=$1 name=$2 end=$((SECONDS + $3))
    shift 3
    until "$@" > /dev/null 2>&1; do
        alive "$name" || die "$what ended by itself; its output is in $log/$name"
        [ $SECONDS -lt $end ] || die "$what does not answer; its output is in $log/$name"
        sleep 0.5
    done
    say "$what is up"
}

answers() { "$PYTHON" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$1"; }

pg_up() {
    if [ ! -f "$dir/pgpass" ]; then
        local word=$dir/pg-word
        secret "$word"
        mkdir -p "$dir/pg" && chmod 700 "$dir/pg"
        if [ "$(id -u)" -eq 0 ]; then chown postgres "$dir/pg" "$word"; fi
        as_pg "$pg/initdb" -D "$dir/pg" -U tuner --auth=scram-sha-256 --pwfile="$word" -E UTF8 > "$log/initdb" 2>&1 \
            || die "the database could not be made (is $dir reachable for its user?); see $log/initdb"
        echo "127.0.0.1:*:*:tuner:$(cat "$word")" > "$dir/pgpass"
        rm -f "$word"
    fi
    as_pg "$pg/pg_isready" -q -h 127.0.0.1 -p "$pg_port" && ! alive postgres && die "port $pg_port is taken; set TUNER_LOCAL_PORT"
    alive postgres || start postgres env -u PGPASSFILE "$self" _postgres
    wait_for "PostgreSQL on 127.0.0.1:$pg_port" postgres 60 as_pg "$pg/pg_isready" -h 127.0.0.1 -p "$pg_port"
    export PGPASSFILE=$dir/pgpass
    "$pg/psql" -h 127.0.0.1 -p "$pg_port" -U tuner -tAc "select 1 from pg_database where datname = 'mlflow'" postgres | grep -q 1 \
        || "$pg/createdb" -h 127.0.0.1 -p "$pg_port" -U tuner mlflow
}

mlflow_up() {
    secret "$dir/mlflow-password"
    secret "$dir/mlflow-key"   # of the pages' forms
    (
        export PGPASSFILE=$dir/pgpass MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
        export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg://tuner@127.0.0.1:$pg_port/mlflow   # the password is in PGPASSFILE
        export MLFLOW_AUTH_CONFIG_PATH=$dir/mlflow-auth.ini MLFLOW_AUTH_ADMIN_USERNAME=tuner
        MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$dir/mlflow-password") MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$dir/mlflow-key")
        export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
        printf '[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = %s\nauth_cache_ttl_seconds = 60\n' \
            "$MLFLOW_BACKEND_STORE_URI" > "$MLFLOW_AUTH_CONFIG_PATH"
        alive mlflow || start mlflow env -u MLFLOW_TRACKING_URI "$PYTHON" -m mlflow server --app-name basic-auth \
            --host 127.0.0.1 --port "$mlflow_port" --workers 1 --artifacts-destination "$dir/artifacts"
    )
    wait_for "MLflow on $MLFLOW_TRACKING_URI" mlflow 240 answers "$MLFLOW_TRACKING_URI/health"
}

ray_up() {
    local i temp=$dir/ray free_ports=(--min-worker-port 0 --max-worker-port 0)   # by default 10002 to 19999, with ours among them
    secret "$RAY_AUTH_TOKEN_PATH"
    MLFLOW_TRACKING_PASSWORD=$(cat "$dir/mlflow-password")   # of the drivers
    export MLFLOW_TRACKING_PASSWORD
    if [ ${#temp} -gt 36 ]; then   # the path of a socket has 107 characters at most
        temp=$(cat "$dir/ray-temp" 2>/dev/null || mktemp -d "${TMPDIR:-/tmp}/tuner-ray-XXXXXX")
        echo "$temp" > "$dir/ray-temp"
    fi
    mkdir -p "$temp" && chmod 700 "$temp"   # Ray opens its own folders in there to everybody
    export PATH=$bin:$PATH
    alive ray-head || start ray-head "$bin/ray" start --head --block --node-ip-address "$head_ip" --port "$gcs_port" \
        --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" --dashboard-agent-listen-port $((base + 4)) \
        --ray-client-server-port $((base + 5)) --num-cpus "$worker_cpus" --temp-dir "$temp/h" "${free_ports[@]}" --disable-usage-stats
    wait_for "Ray's head on $RAY_API_SERVER_ADDRESS" ray-head 120 answers "$RAY_API_SERVER_ADDRESS/api/authentication_mode"
    for ((i = 1; i <= $1; i++)); do   # each with its own folder: in a shared one they overwrite each other's sockets and jobs' packages
        alive "ray-worker-$i" || start "ray-worker-$i" "$bin/ray" start --block --address "$head_ip:$gcs_port" \
            --node-ip-address "127.0.0.$((2 + i))" --dashboard-agent-listen-port $((base + 9 + i)) --num-cpus "$worker_cpus" \
            --temp-dir "$temp/w$i" "${free_ports[@]}" --disable-usage-stats
        wait_for "Ray's worker $i" "ray-worker-$i" 180 nodes_are $((i + 1))
    done
}

nodes_are() { [ "$(node_count)" -ge "$1" ]; }

node_count() {
    "$PYTHON" -c 'from tuner.remote.dashboard import Dashboard; print(len(Dashboard(None).nodes()))' 2>/dev/null || echo 0
}

up() {
    local workers=${1:-2}
    [[ $workers =~ ^[0-9]+$ && $workers -le 25 ]] || die "the number of workers is 0 to 25, not '$workers'"
    needs
    mkdir -p "$dir/home" "$dir/artifacts" "$run" "$log"
    chmod 700 "$dir"/*/   # also those of a service that was made before
    if [ "$(id -u)" -eq 0 ]; then chmod 711 "$dir"; else chmod 700 "$dir"; fi   # root's PostgreSQL is another user
    settings
    pg_up
    mlflow_up
    ray_up "$workers"
    say "ready; in every shell that uses it:  eval \"\$($typed env)\""
}

stop_one() {  # NAME SECONDS: SIGTERM, then SIGKILL to what is left of its session
    local name=$1 end=$((SECONDS + $2)) pid signal=TERM
    [ -f "$run/$name" ] || return 0
    pid=$(cat "$run/$name")
    [ "$name" = postgres ] && signal=INT   # of its own: end connections, write everything, go
    kill -s $signal "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.2; done
    pkill -KILL -s "$pid" 2>/dev/null || true
    rm -f "$run/$name"
    say "$name is down"
}

down() {
    local path
    for path in $(compgen -G "$run/ray-worker-*" || true); do stop_one "$(basename "$path")" 20; done
    stop_one ray-head 20
    stop_one mlflow 20
    stop_one postgres 60
}

status() {
    local name failed=0
    settings
    for name in postgres mlflow ray-head $(cd "$run" 2>/dev/null && compgen -G 'ray-worker-*' | sort -V || true); do
        if alive "$name"; then echo "up    $name"; else echo "down  $name"; failed=1; fi
    done
    if [ $failed -eq 0 ]; then echo "nodes $(node_count)"; echo "pages $MLFLOW_TRACKING_URI (MLflow; user tuner, password in $dir/mlflow-password)  $RAY_API_SERVER_ADDRESS (Ray)"; fi
    return $failed
}

case ${1:-} in
    up) up "${2:-2}" ;;
    down) down ;;
    status) status ;;
    env)
        settings
        for name in MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME RAY_API_SERVER_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH TUNER_HOME; do
            printf 'export %s=%q\n' "$name" "${!name}"
        done
        # shellcheck disable=SC2016  # by the shell that reads it
        printf 'export MLFLOW_TRACKING_PASSWORD="$(cat %q)"\n' "$dir/mlflow-password" ;;
    destroy)
        [ "${2:-}" = --yes ] || die "this deletes every search and run in $dir; say so with: $typed destroy --yes"
        down
        if [ -f "$dir/ray-temp" ]; then rm -rf -- "$(cat "$dir/ray-temp")"; fi
        rm -rf -- "$dir" ;;
    _postgres)   # what `up` starts
        find_postgres
        if [ "$(id -u)" -eq 0 ]; then
            cd / && exec setpriv --reuid postgres --regid postgres --init-groups "$pg/postgres" -D "$dir/pg" -h 127.0.0.1 -p "$pg_port" -k "$dir/pg"
        fi
        exec "$pg/postgres" -D "$dir/pg" -h 127.0.0.1 -p "$pg_port" -k "$dir/pg" ;;
    *) die "say what to do: $typed up [WORKERS] | status | env | down | destroy --yes" ;;
esac
