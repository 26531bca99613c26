#!/bin/sh
# Ray's head: the drivers of submitted jobs run here, trials do not. Further arguments go to `ray start`.
# RAY_HEAD_HOST: the name by which workers reach it; the rest is driver.sh's.
set -eu

# Of several networks Ray would take the one with the default route, which may not be the workers'.
address=$(getent ahostsv4 "$RAY_HEAD_HOST" | awk 'NR == 1 { print $1 }')
exec "$(dirname "$0")/driver.sh" ray start --head --block --disable-usage-stats --num-cpus=0 --num-gpus=0 \
  --node-ip-address="$address" --object-store-memory=100000000 "$@"
