#!/usr/bin/env bash
# Compares a live server with its own description: makes up requests that the description allows and requests that it
# forbids, and checks every answer. Takes about two minutes; the same seed makes the same requests.
#
#   tests/openapi/run.sh                    everything
#   tests/openapi/run.sh --include-path …   with further options of `schemathesis run`
set -euo pipefail
cd "$(dirname "$0")/../.."

version=4.32.5
root=$PWD
venv=$root/.tools/venv
if [ "$("$venv/bin/schemathesis" --version 2>/dev/null)" != "schemathesis, version $version" ]; then
  echo "installing schemathesis $version into $venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

cargo build --workspace --bins --quiet
scratch=$(mktemp -d)
log=$scratch/log
# Rates would turn a fast test into one of rates.
env DARDA_HTTP_ADDR=127.0.0.1:0 DARDA_ADMIN_ADDR=127.0.0.1:0 DARDA_DATA_DIR="$scratch/data" DARDA_LOG=warn \
  DARDA_LIMIT_SENDS_PER_SEC=100000 DARDA_LIMIT_SENDS_BURST=100000 DARDA_LIMIT_JOINS_PER_SEC=100000 \
  target/debug/standalone >"$scratch/out" 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -rf "$scratch"' EXIT

url=
for _ in $(seq 300); do
  url=$(sed -n 's/^Darda is listening on //p' "$scratch/out")
  [ -n "$url" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$log"; echo "the server did not start"; exit 1; }
  sleep 0.1
done
[ -n "$url" ] || { cat "$log"; echo "the server does not say where it listens"; exit 1; }

status=0
cd "$scratch" # It leaves notes where it runs.
PYTHONDONTWRITEBYTECODE=1 DARDA_URL=$url SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$root/tests/openapi \
  "$venv/bin/schemathesis" --config-file "$root/tests/openapi/schemathesis.toml" \
  run "$url/openapi.json" --checks all "$@" || status=$?
if ! kill -0 "$server" 2>/dev/null; then
  cat "$log"
  echo "the server ended"
  status=1
fi
exit "$status"
