#!/usr/bin/env bash
# Several processes of one job on this machine, as on several hosts: launch/local.sh 2 train --config=… --workdir=…
# Runs .venv/bin/python if there is one here, else the python of the PATH; PYTHON=… names another.
# The job ends when all processes have ended, with the first exit code that is not 0. A signal reaches all of them.
set -uo pipefail
[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || { echo "usage: $0 PROCESSES COMMAND --config=FILE.py --workdir=DIR …" >&2; exit 1; }
count=$1
shift
export JAX_NUM_PROCESSES=$count JAX_COORDINATOR_ADDRESS="${JAX_COORDINATOR_ADDRESS:-localhost:9876}"
[[ -x .venv/bin/python ]] && found=.venv/bin/python || found=python
processes=()
for ((i = 0; i < count; i++)); do
  JAX_PROCESS_ID=$i "${PYTHON:-$found}" -m drl_jax "$@" &
  processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM
trap 'kill -INT "${processes[@]}" 2>/dev/null' INT
code=0
for process in "${processes[@]}"; do
  # A trapped signal ends a wait, not the process: wait for as long as it lives.
  while :; do
    wait "$process"
    ended=$?
    kill -0 "$process" 2>/dev/null || break
  done
  wait "$process" 2>/dev/null # that it ended while a signal was handled hides its own code
  own=$?
  ((ended < 128 || own == 127)) || ended=$own
  ((code)) || code=$ended
done
exit "$code"
