#!/usr/bin/env bash
# Several processes of one job on this machine, as on several hosts:
#   launch/local.sh 2 train --config=configs/digits.py --workdir=runs/digits
# Runs .venv/bin/python if there is one here, else the python of the PATH; PYTHON=… names another.
# SIGTERM and SIGINT are passed on to all processes. Ends when all have ended, with exit code
#   0   all are done
#   1   one failed, and a restart will not help
#   42  otherwise: run the same command again (a signal stopped the job, or a process was lost)
set -uo pipefail
[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || { echo "usage: $0 PROCESSES COMMAND --config=FILE.py --workdir=DIR …" >&2; exit 1; }
count=$1
shift
[[ -x .venv/bin/python ]] && found=.venv/bin/python || found=python
python=${PYTHON:-$found}
if [[ -z "${JAX_COORDINATOR_ADDRESS:-}" ]]; then
  free='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
  port=$("$python" -c "$free") || exit 1
  JAX_COORDINATOR_ADDRESS=localhost:$port # two jobs on one machine do not meet
fi
export JAX_NUM_PROCESSES=$count JAX_COORDINATOR_ADDRESS

processes=()
signal=
pass_on() {
  signal=$1
  ((${#processes[@]} == 0)) || kill "-$signal" "${processes[@]}" 2>/dev/null
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
for ((i = 0; i < count; i++)); do
  JAX_PROCESS_ID=$i "$python" -m drl_jax "$@" &
  processes+=($!)
done
[[ -z "$signal" ]] || pass_on "$signal" # it came while the processes were started

code=0
for process in "${processes[@]}"; do
  # A signal ends a wait before the process ends: then wait again.
  while signal=; wait "$process"; own=$?; [[ -n "$signal" ]]; do :; done
  case $own in
    0) ;;
    42 | 12[89] | 1[3-9]? | 2??) ((code)) || code=42 ;;
    *) code=1 ;;
  esac
done
exit "$code"
