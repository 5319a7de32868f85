#!/usr/bin/env bash
# Jobs on Cloud TPU VMs (v4, v5e, v5p, v6e). Google keeps this interface, and recommends GKE or Compute Engine instead;
# TPU7x is there only. The commands for Compute Engine are below.
#
#   git archive --format=tar.gz HEAD | gcloud storage cp - gs://bucket/drl_jax.tar.gz
#   export TPU=t6 ZONE=us-east5-b
#   export SOURCE=gs://bucket/drl_jax.tar.gz DATA=gs://bucket/data/cifar10
#   launch/tpu_vm.sh create v6e:4x4 --spot -- train --config=cifar10:t6 --workdir=gs://bucket/t6
#   launch/tpu_vm.sh log
#   launch/tpu_vm.sh delete
#
# create   asks for a slice. Each host then runs launch/tpu_vm_startup: it installs SOURCE, copies the data set DATA (a
#          folder as `drl-jax prepare` makes it; leave DATA out where the config needs none) and runs the command, again
#          after each exit code 42 and after each reboot. What stands before -- goes to gcloud, as --spot, --reserved,
#          --service-account=S, --valid-until-duration=6h, --internal-ips, or --node-count=2 --node-prefix=P for two
#          slices. RUNTIME=… names another runtime version than that of the table below.
# log      prints what host 0 has printed (--follow keeps printing).
# ssh      runs a command by hand on every host: launch/tpu_vm.sh ssh train --config=… --workdir=gs://…
#          It ends when your connection ends. The repository must lie in ~/drl_jax, installed in ~/drl_jax/.venv.
# delete   deletes the slice and its request.
#
# A preempted spot slice is SUSPENDED for good: delete it and run the same create again. The job continues from the
# checkpoints in its workdir. The hosts' service account must be able to read SOURCE and DATA.
#
# Compute Engine (all TPUs, 7x too) starts a lost slice again by itself, with the same startup script:
#   gcloud compute resource-policies create workload-policy t6 --type=HIGH_THROUGHPUT --accelerator-topology=4x4 \
#     --accelerator-topology-mode=AUTO_CONNECT --region=us-east5
#   gcloud compute instance-templates create t6 --machine-type=ct6e-standard-4t --instance-template-region=us-east5 \
#     --image-family=… --image-project=… --scopes=cloud-platform --provisioning-model=SPOT \
#     --metadata="drl-jax-source=$SOURCE,drl-jax-data=$DATA,drl-jax-command=train --config=… --workdir=gs://…" \
#     --metadata-from-file=startup-script=launch/tpu_vm_startup
#   gcloud compute instance-groups managed create t6 --size=4 --zone=us-east5-b --workload-policy=… --template=…
# The image and the group's flags: https://docs.cloud.google.com/compute/docs/tpus (these commands are untried).
set -euo pipefail
fail() {
  echo "tpu_vm.sh: $*" >&2
  exit 1
}
what=${1:-}
[[ "$what" =~ ^(create|log|ssh|delete)$ ]] || fail "the first word is '$what'; it must be create, log, ssh or delete"
shift
[[ -n "${TPU:-}" ]] || fail "TPU is not set: the name of the TPU VM"
[[ -n "${ZONE:-}" ]] || fail "ZONE is not set, as in ZONE=us-east5-b"
here=$(cd "$(dirname "$0")" && pwd)
tpus=(gcloud compute tpus)

case $what in
  create)
    slice=${1:-}
    [[ "$slice" =~ ^(v4|v5p):([0-9]+x[0-9]+x[0-9]+)$ || "$slice" =~ ^(v5e|v6e):([0-9]+x[0-9]+)$ ]] ||
      fail "the slice '$slice' is not possible: give v4:AxBxC, v5p:AxBxC, v5e:AxB or v6e:AxB, as in v6e:4x4"
    shift
    type=${BASH_REMATCH[1]} topology=${BASH_REMATCH[2]}
    chips=$((${topology//x/*}))
    # gcloud names a slice by its size: v6e and v5e by chips, v5p and v4 by cores, two per chip. Not every version
    # takes --type and --topology for all TPUs.
    case $type in
      v4) runtime=tpu-ubuntu2204-base size=v4-$((2 * chips)) ;;
      v5e) runtime=v2-alpha-tpuv5-lite size=v5litepod-$chips ;;
      v5p) runtime=v2-alpha-tpuv5 size=v5p-$((2 * chips)) ;;
      v6e) runtime=v2-alpha-tpuv6e size=v6e-$chips ;;
    esac
    [[ "$topology" =~ ^(1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16|2x2x1|2x2x2|2x2x4|2x4x4|4x4x4|4x4x8|4x8x8|8x8x8|8x8x16)$ ]] ||
      fail "the slice '$slice' is not possible: sizes are 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16, or 2x2x1, 2x2x2, \
2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, 8x8x16"
    flags=()
    nodes=("--node-id=$TPU")
    while (($# > 0)) && [[ "$1" != -- ]]; do
      [[ "$1" != --node-count* ]] || nodes=()
      flags+=("$1")
      shift
    done
    [[ "${1:-}" == -- && $# -gt 1 ]] ||
      fail "the command is missing: it comes after --, as in: create $slice --spot -- train …"
    shift
    [[ "${SOURCE:-}" == gs://*.tar.gz ]] ||
      fail "SOURCE='${SOURCE:-}' must be an archive of the repository, gs://….tar.gz"
    [[ -z "${DATA:-}" || "$DATA" == gs://*/* ]] ||
      fail "DATA='$DATA' must be the folder of a data set in a bucket, as gs://bucket/data/cifar10"
    printf -v command ' %q' "$@"
    # ^;;^ makes ;; the separator: a command may have commas.
    exec "${tpus[@]}" queued-resources create "$TPU" --zone="$ZONE" "${nodes[@]}" \
      --accelerator-type="$size" --runtime-version="${RUNTIME:-$runtime}" \
      --metadata="^;;^drl-jax-source=$SOURCE${DATA:+;;drl-jax-data=$DATA};;drl-jax-command=${command# }" \
      --metadata-from-file=startup-script="$here/tpu_vm_startup" "${flags[@]}"
    ;;
  log)
    exec "${tpus[@]}" tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 \
      --command="sudo journalctl --unit=google-startup-scripts --output=cat ${*@Q}"
    ;;
  ssh)
    printf -v arguments ' %q' "$@"
    # shellcheck disable=SC2016 # the hosts expand it
    run='cd drl_jax || exit 1; [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3
      exec "$python" -m drl_jax'
    exec "${tpus[@]}" tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$run$arguments"
    ;;
  delete)
    exec "${tpus[@]}" queued-resources delete "$TPU" --zone="$ZONE" --force --quiet
    ;;
esac
