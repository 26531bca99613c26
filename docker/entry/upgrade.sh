#!/bin/sh
# Brings the tables in MLflow's database to the version of this image, which refuses to serve older ones. Save the
# database first: there is no way back. Those of users and passwords the server itself brings up to date.
set -eu
# shellcheck source=docker/entry/secrets.sh
. "$(dirname "$0")/secrets.sh"

PGPASSWORD=$(secret mlflow_password) # in the address it would be in argv
export PGPASSWORD
exec mlflow db upgrade postgresql+psycopg://mlflow@/mlflow
