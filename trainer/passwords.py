"""Passwords stay out of whatever is printed or written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

from trainer.machine import LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE

OF_ADDRESSES = (LEDGER_VARIABLE, OPTUNA_VARIABLE, TRACKING_VARIABLE, "MLFLOW_BACKEND_STORE_URI")
SECRET = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN", "PGPASSWORD")
LEAST = 6
"""Characters: shorter ones would be found within words that say something else."""
IN_ADDRESS = re.compile(r"(://[^/\s:@]*):(\S*)@")
AMONG_OPTIONS = re.compile(r"([?&](?:ssl)?password=)([^&\s]*)")


def hide_passwords(text: str) -> str:
    """``text`` with ``***`` for the password of every address in it, before the host or among the options.

    A password may hold any character, escaped or not: all up to the last ``@`` is taken for it. What the environment
    has for passwords is hidden wherever it stands, for libraries quote addresses in parts.
    """
    text = AMONG_OPTIONS.sub(r"\1***", IN_ADDRESS.sub(r"\1:***@", text))
    for secret in sorted(set(_known()), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def answered(cause: str) -> str:
    """What MLflow's client says of a server, as ``does not answer: CAUSE`` or as what is to be done."""
    if "error code 401" in cause:
        return "asks for a password: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD must be set and right"
    if "error code 403" in cause:
        return "refuses this host name or user (403): NAMES= of make server names hosts; its admin gives rights"
    if "Max retries exceeded" in cause:
        found = re.search(r"\[Errno -?\d+\] [A-Z][a-z ]+", cause)
        return f"does not answer: {found[0] if found else 'no connection'}"
    return f"does not answer: {cause}"


def _known() -> Iterator[str]:
    for name in OF_ADDRESSES:
        for pattern in (IN_ADDRESS, AMONG_OPTIONS):
            yield from (form for found in pattern.findall(os.environ.get(name, "")) for form in _forms(found[1]))
    for name in SECRET:
        yield from _forms(os.environ.get(name, ""))


def _forms(secret: str) -> Iterator[str]:
    """As it stands in the environment, and as a library reads it there."""
    yield from (form for form in (secret, unquote(secret)) if len(form) >= LEAST)
