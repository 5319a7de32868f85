#!/usr/bin/env bash
# The same command on every host of a Cloud TPU VM:
#   TPU=name ZONE=us-central2-b launch/tpu_vm.sh train --config=configs/cifar10.py:t6 --workdir=gs://bucket/t6
# The repository must lie in ~/drl_jax on every host, installed with the extra [tpu]. Runs .venv/bin/python if there is
# one there, else python3. JAX finds the other hosts itself.
set -euo pipefail
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"
printf -v arguments ' %q' "$@"
# shellcheck disable=SC2016 # the hosts expand it
run='cd drl_jax || exit 1; [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3; exec "$python" -m drl_jax'
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$run$arguments"
