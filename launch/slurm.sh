#!/usr/bin/env bash
#SBATCH --job-name=drl_jax
#SBATCH --nodes=1
#SBATCH --gres=gpu:8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@180
# One task per GPU, every task sees all GPUs of its node (not --gpus-per-task: its numbering differs from JAX's).
#   sbatch --nodes=2 launch/slurm.sh train --config=cifar10:t6 --workdir=/shared/runs/t6
# Runs .venv/bin/python if there is one where it was submitted, else the python of the PATH; PYTHON=… names another.
# The program reads the job's layout from SLURM's own variables.
# Three minutes before its time is up, or when it is preempted, the job saves its state and queues again. It also
# queues again when a task was lost (killed, out of memory, its node is gone). It ends with exit code 1 when a task
# failed so that a restart will not help, and after MAX_RESTARTS (20) restarts in a row without a newer checkpoint.
# WORKDIR/restarts counts these. A workdir on gs:// is not read: there MAX_RESTARTS bounds all restarts of the job.
set -uo pipefail
fail() {
  echo "slurm.sh: $*" >&2
  exit 1
}
(($# > 0)) || fail "the command is missing, as in: sbatch launch/slurm.sh train --config=… --workdir=…"
[[ -n "${SLURM_JOB_ID:-}" ]] || fail "this is a job of SLURM: sbatch launch/slurm.sh $*"
[[ "${MAX_RESTARTS:-20}" =~ ^[0-9]+$ ]] || fail "MAX_RESTARTS=$MAX_RESTARTS must be a whole number"
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY # the processes talk to each other
[[ -x .venv/bin/python ]] && found=.venv/bin/python || found=python

workdir=
previous=
for argument in "$@"; do
  [[ "$argument" != --workdir=* ]] || workdir=${argument#*=}
  [[ "$previous" != --workdir ]] || workdir=$argument
  previous=$argument
done
workdir=${workdir/#"~"/$HOME}

newest() { # the step of the newest checkpoint, -1 if there is none
  local path step best=-1
  for path in "$workdir"/checkpoints/*; do
    step=${path##*/}
    [[ ! "$step" =~ ^[0-9]+$ ]] || ((10#$step <= best)) || best=$((10#$step))
  done
  echo "$best"
}

# srun returns the highest exit code of its tasks. So each task ends with 0, 42 (a restart helps) or 254 (it does
# not): 254 is above all that SLURM itself returns for a task (128 + signal, 253 for out of memory).
# SLURM sends a signal to all processes of a task. The shell of the task ignores it and waits for the program; bash's
# `wait` in a handler would sometimes lose the code.
# shellcheck disable=SC2016 # the tasks expand it
task='
trap : TERM INT
"$@"
case $? in
  0) ;;
  42 | 12[89] | 1[3-9]? | 2??) exit 42 ;;
  *) exit 254 ;;
esac'
before=$(newest)
code=0
# No --kill-on-bad-exit: 42 is such an exit, and where one task fails the others end by themselves.
srun --kill-on-bad-exit=0 bash -c "$task" task "${PYTHON:-$found}" -m drl_jax "$@" || code=$?
((code != 0)) || exit 0
((code == 42 || (code >= 128 && code < 254))) || exit 1

restarts=${SLURM_RESTART_COUNT:-0} # a new job takes no count from WORKDIR/restarts
if [[ -d "$workdir" ]]; then
  ((restarts == 0)) || read -r restarts 2>/dev/null <"$workdir/restarts"
  (($(newest) <= before)) || restarts=0
fi
if ((restarts >= ${MAX_RESTARTS:-20})); then
  echo "slurm.sh: not queued again: after $restarts restarts there is no newer checkpoint in --workdir=$workdir" >&2
  exit 1
fi
[[ ! -d "$workdir" ]] || echo "$((restarts + 1))" >"$workdir/restarts"
exec scontrol requeue "$SLURM_JOB_ID"
