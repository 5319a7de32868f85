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
#   sbatch --nodes=2 launch/slurm.sh train --config=configs/cifar10.py:t6 --workdir=/shared/runs/t6
# Runs .venv/bin/python if there is one where it was submitted, else the python of the PATH; PYTHON=… names another.
# JAX reads the job's layout from SLURM's own variables. Three minutes before its time is up, or when it is
# preempted, the job saves its state and ends with code 42; then it queues again and goes on where it stopped.
set -euo pipefail
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY # the processes talk to each other
[[ -x .venv/bin/python ]] && found=.venv/bin/python || found=python
code=0
# No --kill-on-bad-exit: 42 is such an exit, and where one process fails the others end by themselves.
srun --kill-on-bad-exit=0 "${PYTHON:-$found}" -m drl_jax "$@" || code=$?
((code != 42)) || exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"
