#!/bin/sh
# Makes what docker/secrets lacks, of random digits, readable by its owner alone, and never overwrites: databases keep the
# passwords that they were made with. SWEEPS_UID: who runs the containers, where root makes the files.
set -eu
umask 077
folder="${1:-$(dirname "$0")/secrets}"
mkdir -p "$folder"
for name in postgres_password mlflow_password mlflow_auth_password optuna_password ledger_password \
  mlflow_admin_password mlflow_flask_key ray_token; do
  [ ! -e "$folder/$name" ] || continue
  # Under another name until it is whole: a half-written one would be kept for ever.
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$folder/.$name"
  if [ "$(id -u)" = 0 ]; then
    chown "${SWEEPS_UID:-1000}:${SWEEPS_UID:-1000}" "$folder/.$name"
  fi
  mv "$folder/.$name" "$folder/$name"
done
