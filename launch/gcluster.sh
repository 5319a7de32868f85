#!/usr/bin/env bash
# A TPU job on a GKE cluster, with the gcluster of Google's Cluster Toolkit (1.95):
#   NAME=t6 TYPE=ct6e-standard-4t TOPOLOGY=4x4 SLICES=2 IMAGE=… BUCKET=… DATA=cifar10 \
#     launch/gcluster.sh train --config=cifar10:t6 --workdir=gs://…/runs/t6
# The cluster is the one of `gcluster job config set`. QUEUE=… names a queue of Kueue. For GPUs take the JobSet
# files: gcluster does not tell the processes of several nodes about each other.
# The job restarts after the exit codes 42 and 128 to 255, at most 100 times.
# shellcheck disable=SC2153 # the loop looks at the variables
set -euo pipefail
fail() {
  echo "launch/gcluster.sh: $*" >&2
  exit 1
}
missing=()
for variable in NAME TYPE TOPOLOGY IMAGE BUCKET DATA; do
  [[ -n "${!variable:-}" ]] || missing+=("$variable=…")
done
((${#missing[@]} == 0)) || fail "these variables are missing: ${missing[*]}"
(($# > 0)) || fail "the command is missing, as in: launch/gcluster.sh train --config=cifar10:t6 --workdir=gs://…"
[[ "$BUCKET" =~ ^[a-z0-9][a-z0-9._-]+$ ]] || fail "BUCKET=$BUCKET: only the name of the bucket, without gs://"
((${#NAME} <= 28)) || fail "NAME=$NAME is too long: at most 28 characters"
# The data set is copied first: array_record does not read gs://. Then bash becomes the program, which gets SIGTERM.
copy='import gcsfs, sys; gcsfs.GCSFileSystem().get(*sys.argv[1:], recursive=True)'
command="python -c '$copy' $BUCKET/data/$DATA/ /tmp/data/$DATA &&"
command+=" exec env TFDS_DATA_DIR=/tmp/data JAX_COMPILATION_CACHE_DIR=gs://$BUCKET/cache python -m drl_jax"
for argument; do
  # The command becomes part of a YAML file.
  [[ "$argument" != *[\'\"\\]* ]] || fail "$argument: quotes and \\ are not possible here"
  command+=" '$argument'"
done
printf -v codes ',%s' {128..255}
exec gcluster job submit --name "$NAME" --image "$IMAGE" --compute-type "$TYPE" --topology "$TOPOLOGY" \
  --num-slices "${SLICES:-1}" --restarts 100 --restart-on-exit-codes "42$codes" --grace-period 180s \
  ${QUEUE:+--queue "$QUEUE"} --command "$command"
