"""``python healthy.py URL``: exit code 0 when a server says there, in five seconds, that it is well, else 1."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request


def main(url: str) -> int:
    """Ask once. A line to stderr says what is wrong; ``docker inspect`` shows it."""
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  an address of ours, from the image
    except (OSError, urllib.error.URLError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
