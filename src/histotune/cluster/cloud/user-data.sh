#!/usr/bin/env bash
# One histotune command on the AWS Deep Learning AMI (PyTorch 2.8, Ubuntu 24.04), at the machine's first start.
# `histotune cloud plan --out cloud -- COMMAND` fills in the three values below and prints what it costs.
# What was done goes to /var/log/histotune.log. The machine stops itself at the end: start it with
# --instance-initiated-shutdown-behavior terminate, and nothing goes on costing.
set -uo pipefail

COMMAND='histotune doctor'
PACKAGE='histotune[s3]'
RESULTS=''

WORK=/opt/histotune-work
exec > >(tee -a /var/log/histotune.log) 2>&1
trap 'shutdown -h now' EXIT

# Databases, memory maps and renames stay on the local disk; the bucket gets copies of what is finished.
store() {
  aws s3 sync --only-show-errors "$WORK" "$RESULTS" --exclude '*.partial*' --exclude '*.lock' --exclude '*.sqlite*'
}

mkdir -p "$WORK" && cd "$WORK" || exit 1
export XDG_CACHE_HOME="$WORK/cache" XDG_STATE_HOME="$WORK/state" HOME=/root
# shellcheck disable=SC1091  # the image's own environment, with torch 2.8 in it
source /opt/pytorch/bin/activate || exit 1
if [[ "$PACKAGE" == s3://* ]]; then # a wheel of your own
  aws s3 cp --only-show-errors "$PACKAGE" /tmp/ && PACKAGE="/tmp/$(basename "$PACKAGE")[s3]"
fi
python -m pip install --quiet "$PACKAGE" || exit 1

if [[ -n "$RESULTS" ]]; then
  aws s3 sync --only-show-errors "$RESULTS" "$WORK" || exit 1
  (while sleep 300; do store || true; done) &
  KEEPER=$!
fi

# When AWS takes a spot machine back, histotune sees the notice, writes a checkpoint and ends with exit code 143:
# what is stored then is what the same command on the next machine goes on from.
bash -c "$COMMAND"
CODE=$?
echo "histotune: exit code $CODE"

if [[ -n "$RESULTS" ]]; then
  kill "$KEEPER" 2>/dev/null
  store
  aws s3 cp --only-show-errors /var/log/histotune.log "$RESULTS/histotune.log"
fi
