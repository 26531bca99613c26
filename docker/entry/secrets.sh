# shellcheck shell=sh
# To be sourced. Secrets are files, which neither `docker inspect` nor a process list shows.
secrets="${SWEEPS_SECRETS:-/run/secrets}"

# secret NAME: print it, or end with one line that says which one is missing.
secret() {
  if [ ! -r "$secrets/$1" ] || [ ! -s "$secrets/$1" ]; then
    echo "error: $secrets/$1: missing, empty or not readable: docker/secrets.sh makes it; SWEEPS_UID must be its owner" >&2
    exit 2
  fi
  cat "$secrets/$1"
}

# Ray reads the file itself. It would start without authentication if it were only missing.
use_ray_token() {
  secret ray_token > /dev/null
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$secrets/ray_token"
}
