"""`report.html`: a run as one self-contained page, for a browser, a phone or a printer.

The page needs no network and no other file: style and script are in it, and its own security policy
forbids it to fetch or run anything else.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.checkpoint.publish import write_atomic
from pipeline.manifest import Manifest, read_manifest
from pipeline.report.page.run import run_page
from pipeline.report.units import duration, printable, size

FILE_NAME = "report.html"


def write_page(run_dir: Path) -> Path:
    """Write the page of a run into its folder, from the manifest that lies there; returns the file.

    Raises InputError when there is no run, and OSError when the page cannot be written.
    """
    file = run_dir / FILE_NAME
    write_atomic(file, html_of(read_manifest(run_dir)))
    return file


def html_of(record: Manifest) -> str:
    """The page of a run."""
    return _templates().get_template("run.html").render(page=run_page(record))


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
    for name in ("style", "script"):
        text = _asset(f"page.{'css' if name == 'style' else 'js'}")
        found.globals[name] = Markup(text)
        found.globals[f"{name}_hash"] = _hash(text)
    return found


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a security policy names the only style or script that may be in force."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _printable(value: object) -> object:
    """What files and models wrote may hold control characters, which HTML forbids."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
