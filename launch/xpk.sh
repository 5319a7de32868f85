#!/usr/bin/env bash
# A job on a GKE cluster that xpk made (xpk 1.16):
#   NAME=t6 TYPE=v6e-16 SLICES=2 CLUSTER=… PROJECT=… ZONE=… IMAGE=… BUCKET=… DATA=cifar10 \
#     launch/xpk.sh train --config=cifar10:t6 --workdir=gs://…/runs/t6
# TYPE is a TPU with its size (v6e-16, v5p-32) or a node of GPUs (h200-141gb-8); SLICES or NODES is their number.
# xpk restarts the job after the exit codes 42 and 127 to 255, here at most 100 times.
# shellcheck disable=SC2153 # the loop looks at the variables
set -euo pipefail
fail() {
  echo "launch/xpk.sh: $*" >&2
  exit 1
}
missing=()
for variable in NAME TYPE CLUSTER PROJECT ZONE IMAGE BUCKET DATA; do
  [[ -n "${!variable:-}" ]] || missing+=("$variable=…")
done
((${#missing[@]} == 0)) || fail "these variables are missing: ${missing[*]}"
(($# > 0)) || fail "the command is missing, as in: launch/xpk.sh train --config=cifar10:t6 --workdir=gs://…"
[[ "$BUCKET" =~ ^[a-z0-9][a-z0-9._-]+$ ]] || fail "BUCKET=$BUCKET: only the name of the bucket, without gs://"
# The data set is copied first: array_record does not read gs://. Then bash becomes the program, which gets SIGTERM.
copy='import gcsfs, sys; gcsfs.GCSFileSystem().get(*sys.argv[1:], recursive=True)'
command="python -c '$copy' $BUCKET/data/$DATA/ /tmp/data/$DATA &&"
command+=" exec env TFDS_DATA_DIR=/tmp/data JAX_COMPILATION_CACHE_DIR=gs://$BUCKET/cache python -m drl_jax"
for argument; do
  # The command becomes part of a YAML file.
  [[ "$argument" != *[\'\"\\]* ]] || fail "$argument: quotes and \\ are not possible here"
  command+=" '$argument'"
done
exec xpk workload create --workload="$NAME" --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" \
  --device-type="$TYPE" --num-slices="${SLICES:-1}" --num-nodes="${NODES:-1}" --docker-image="$IMAGE" \
  --max-restarts=100 --termination-grace-period-seconds=180 --command="$command"
