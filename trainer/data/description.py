"""What ``make digest`` knew of a user's own images, in a file beside theirs: how many they are and how they were read.

Nothing that is trained depends on it; reports say it. No torch here: they have none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from trainer.files import write_atomically


@dataclass(frozen=True, slots=True)
class Description:
    """Of one part. images: their number. size: ``SIZE`` of make digest, None without it. channels: ``CHANNELS``."""

    images: int
    size: int | None
    channels: int

    def write(self, part: Path) -> None:
        """Beside the file ``part``, unless it stands there already. Raises OSError."""
        if description(part) == self:
            return
        content = json.dumps(asdict(self)).encode()

        def write(file: IO[bytes]) -> None:
            file.write(content)

        write_atomically(_beside(part), write)


def description(part: Path) -> Description | None:
    """Of the file ``part``; None where there is none, or what is no description."""
    try:
        found = json.loads(_beside(part).read_text(encoding="utf-8"))
        size = None if found["size"] is None else int(found["size"])
        read = Description(int(found["images"]), size, int(found["channels"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return read if read.images > 0 else None


def _beside(part: Path) -> Path:
    return part.with_suffix(".json")
