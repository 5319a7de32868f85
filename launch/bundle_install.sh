#!/bin/sh
# Installs drl_jax without a network: ./install.sh FOLDER makes FOLDER/venv and FOLDER/source.
# launch/bundle puts this script beside the wheels. PYTHON=… names another Python than python3.
set -eu
fail() {
  echo "install.sh: $*" >&2
  exit 1
}
[ $# = 1 ] || fail "give one folder to install to, as in: ./install.sh /opt/drl_jax"
case $1 in /*) target=$1 ;; *) target=$PWD/$1 ;; esac
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
[ ! -e "$target/venv" ] || fail "$target/venv is there already; delete it, or give another folder"
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS || fail "the bundle is damaged: copy it again"
needed=$(cat python)
found=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())') ||
  fail "there is no $python; PYTHON=… names another"
[ "$found" = "$needed" ] || fail "$python is Python $found, and this bundle is for $needed; PYTHON=… names another"

if [ -d jax ]; then
  "$python" -m venv "$target/venv"
  jax=$PWD/jax
else
  "$python" -c 'import jax' 2>/dev/null || fail "$python has no JAX, nor has this bundle: launch/bundle --with-jax=…"
  "$python" -m venv --system-site-packages "$target/venv"
  jax=$target/wheels
fi
mkdir -p "$target/source"
"$python" -m tarfile --extract wheels.tar.xz "$target"
"$python" -m tarfile --extract source.tar.gz "$target/source"
# --no-deps: the list is complete, and pyarrow and uvloop are left out.
"$target/venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps \
  --find-links="$target/wheels" --find-links="$jax" --requirement=requirements.txt
rm -r "$target/wheels"
exec "$target/venv/bin/drl-jax" --version
