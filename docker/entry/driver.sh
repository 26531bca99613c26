#!/bin/sh
# Runs a command that may write results: with the addresses of ledger, searches and MLflow in its environment, and with
# their passwords. What it starts inherits them; workers on other nodes do not. PGHOST: PostgreSQL.
set -eu
# shellcheck source=docker/entry/secrets.sh
. "$(dirname "$0")/secrets.sh"

ledger=$(secret ledger_password)
optuna=$(secret optuna_password)
MLFLOW_TRACKING_PASSWORD=$(secret mlflow_admin_password)
export MLFLOW_TRACKING_PASSWORD
export SWEEPS_LEDGER_URL="postgresql+psycopg://ledger:$ledger@/ledger"
export SWEEPS_OPTUNA_URL="postgresql+psycopg://optuna:$optuna@/optuna"
use_ray_token
exec "$@"
