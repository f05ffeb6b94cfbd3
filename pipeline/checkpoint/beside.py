"""Hidden names beside a target, for what is on its way to become it or was put aside for it."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Literal

Kind = Literal["partial", "replaced"]
_NAME = re.compile(r"\.(?P<target>.+)\.(?P<kind>partial|replaced)-[0-9a-f]{8}", re.DOTALL)


def beside(target: Path, kind: Kind) -> Path:
    """A name that nothing has yet."""
    return target.with_name(f".{target.name}.{kind}-{secrets.token_hex(4)}")


def target_of(hidden: Path) -> Path:
    """The target that a name of `beside` was made for; any other name is one itself."""
    match = _NAME.fullmatch(hidden.name)
    return hidden.with_name(match["target"]) if match else hidden


def leftovers(target: Path, kind: Kind) -> list[Path]:
    """What lies under such names."""
    found = []
    for entry in target.parent.iterdir():
        match = _NAME.fullmatch(entry.name)
        if match and (match["target"], match["kind"]) == (target.name, kind):
            found.append(entry)
    return sorted(found)
