"""``python -m sweeps doctor``: is this machine ready, and is nothing on it open that should not be.

It changes nothing, asks nothing of the network but the addresses that are set, and prints no secret.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

from sweeps.doctor.finding import Finding, failed
from sweeps.doctor.machine import check_data, check_disks, check_gpus, check_processor, check_versions
from sweeps.doctor.secrets import check_addresses, check_files, check_ray_folders, check_token
from sweeps.doctor.sockets import check_sockets
from sweeps.doctor.stores import check_own_clock, check_stores
from trainer.machine import Results

Check = Callable[[], Iterator[Finding]]


def checks(results: Results, verify_data: bool) -> dict[str, Check]:
    """All of them, by what they are about, in the order in which they are done."""
    return {
        "versions": check_versions,
        "sockets": check_sockets,
        "token": check_token,
        "Ray": check_ray_folders,
        "secrets": lambda: check_files(results.root),
        "addresses": lambda: check_addresses(os.environ),
        "stores": lambda: check_stores(results),
        "clock": check_own_clock,
        "processor": check_processor,
        "disks": lambda: check_disks(results.root),
        "GPU": check_gpus,
        "data": lambda: check_data(results.data, verify_data),
    }


def examine(to_do: dict[str, Check]) -> Iterator[Finding]:
    """What all checks find. One that cannot be done is a finding too, and no reason to leave out the others."""
    for about, check in to_do.items():
        try:
            yield from check()
        except Exception as error:  # whatever psutil, torch or a database raises
            yield failed(about, f"could not be looked at: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def doctor(results: Results, verify_data: bool) -> int:
    """Print a line a check; the exit code is returned: 0 where nothing failed, else 1. verify_data: read data sets."""
    count: Counter[str] = Counter()
    for finding in examine(checks(results, verify_data)):
        print(finding.line(), flush=True)
        count[finding.verdict] += 1
    print(f"{count['ok']} ok, {count['warning']} warning{'s' * (count['warning'] != 1)}, {count['FAILED']} failed")
    return 1 if count["FAILED"] else 0
