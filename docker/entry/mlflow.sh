#!/bin/sh
# MLflow's server, which asks for a password. Further arguments go to `mlflow server`. PGHOST: PostgreSQL.
# The admin's password counts when the database has no admin yet; afterwards it is changed through MLflow.
set -eu
umask 077
# shellcheck source=docker/entry/secrets.sh
. "$(dirname "$0")/secrets.sh"

mlflow=$(secret mlflow_password)
auth=$(secret mlflow_auth_password)
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret mlflow_admin_password)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_flask_key)
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH
export MLFLOW_BACKEND_STORE_URI="postgresql+psycopg://mlflow:$mlflow@/mlflow"

# MLflow takes the address of this database from a file alone.
cat > "$MLFLOW_AUTH_CONFIG_PATH" << END
[mlflow]
default_permission = READ
database_uri = postgresql+psycopg://mlflow_auth:$auth@/mlflow_auth
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END

# One worker, for each makes the tables of an empty database; it answers many requests at a time all the same.
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 1 "$@"
