#!/usr/bin/env bash
# The same command on every host of a Cloud TPU VM:
#   TPU=name ZONE=us-central2-b launch/tpu_vm.sh train --config=configs/cifar10.py:t6 --workdir=gs://bucket/t6
# The repository must lie in ~/drl_jax on every host, installed with the extra [tpu]. JAX finds the other hosts itself.
set -euo pipefail
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"
printf -v arguments ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="cd drl_jax && exec python3 -m drl_jax$arguments"
