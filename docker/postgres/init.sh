#!/bin/sh
# Four databases, each with an owner who can open no other: MLflow's, its users', Optuna's and the ledger's. They cannot
# share one: three of them migrate a table of the same name. The image runs this when the volume is empty; run again, it
# makes what is missing and sets the passwords anew.
set -eu

for name in mlflow mlflow_auth optuna ledger; do
  # psql quotes the password itself, which is neither in argv nor, with these settings, in a log.
  PASSWORD=$(cat "${SWEEPS_SECRETS:-/run/secrets}/${name}_password")
  export PASSWORD
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --set name="$name" << 'END'
\getenv password PASSWORD
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SELECT format('CREATE ROLE %I LOGIN', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
END
done
