#!/bin/sh
# A node on which trials run, with as many CPUs and GPUs as its container has. It knows Ray's token and no other secret.
# RAY_HEAD: HOST:PORT. Further arguments go to `ray start`.
set -eu
# shellcheck source=docker/entry/secrets.sh
. "$(dirname "$0")/secrets.sh"

use_ray_token
exec ray start --block --disable-usage-stats --address="$RAY_HEAD" --object-store-memory=100000000 "$@"
