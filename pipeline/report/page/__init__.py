"""A run, a sweep or several runs as one self-contained page, for a browser, a phone or a printer.

The page needs no network and no other file: style and script are in it, and its own security policy
forbids it to fetch or run anything else.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.checkpoint.publish import write_atomic
from pipeline.errors import InputError
from pipeline.manifest import Manifest, read_manifest
from pipeline.report.page.run import run_page
from pipeline.report.units import duration, printable, size

if TYPE_CHECKING:
    from pipeline.sweep.status import SweepStatus

FILE_NAME = "report.html"


def write_page(run_dir: Path, file: Path | None = None) -> Path:
    """Write the page of a run, by default into its folder, from the manifest that lies there.

    Returns the file. Raises InputError when there is no run, and OSError when it cannot be written.
    """
    file = file or run_dir / FILE_NAME
    write_atomic(file, html_of(read_manifest(run_dir)))
    return file


def write_sweep_page(status: SweepStatus, file: Path | None = None) -> Path:
    """Write the page of a sweep, by default into its folder, from its status and its jobs' manifests.

    Returns the file. Raises OSError when it cannot be written.
    """
    from pipeline.report.page.sweep import sweep_page

    folder = Path(status.folder)
    file = file or folder / FILE_NAME
    records, addresses = {}, {}
    for job in status.jobs:
        try:
            records[job.folder] = read_manifest(folder / job.folder)
        except InputError:
            continue  # it waits, or was killed before it had one
        addresses[job.folder] = _address(folder / job.folder, file)
    page = sweep_page(status, records, {name: found for name, found in addresses.items() if found})
    write_atomic(file, _rendered("sweep.html", page, charts=True))
    return file


def write_side_by_side(run_dirs: Sequence[Path], file: Path) -> Path:
    """Write a page that holds several runs against each other, a column for each.

    Returns the file. Raises InputError when one is no run, and OSError when it cannot be written.
    """
    from pipeline.report.page.side_by_side import side_by_side

    runs = [(read_manifest(folder), _address(folder, file)) for folder in run_dirs]
    write_atomic(file, _rendered("side_by_side.html", side_by_side(runs)))
    return file


def html_of(record: Manifest) -> str:
    """The page of a run."""
    return _rendered("run.html", run_page(record))


def _address(folder: Path, file: Path) -> str:
    """How another page links to the page of a run; empty when there is none."""
    there = folder / FILE_NAME
    return quote(os.path.relpath(there, file.absolute().parent)) if there.is_file() else ""


def _rendered(template: str, page: Any, *, charts: bool = False) -> str:
    names = ("page", "charts") if charts else ("page",)
    assets = {
        kind: "".join(_asset(f"{name}.{ending}") for name in names)
        for kind, ending in (("style", "css"), ("script", "js"))
    }
    return (
        _templates()
        .get_template(template)
        .render(
            page=page,
            **{kind: Markup(text) for kind, text in assets.items()},
            **{f"{kind}_hash": _hash(text) for kind, text in assets.items()},
        )
    )


@cache
def _templates() -> Environment:
    """Whatever stands in a manifest is text: everything is escaped but our own style and script."""
    found = Environment(
        loader=PackageLoader("pipeline.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    found.filters |= {"duration": duration, "size": size}
    return found


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a security policy names the only style or script that may be in force."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _printable(value: object) -> object:
    """What files and models wrote may hold control characters, which HTML forbids."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
