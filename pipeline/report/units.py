"""Amounts as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes in powers of 1000, as disks are sold: `988 MB`, `1.2 GB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    amount = float(count)
    while abs(amount) >= 999.5 and len(units) > 1:
        amount /= 1000
        del units[0]
    digits = 0 if units[0] == "B" or amount >= 99.95 else 1
    return f"{amount:.{digits}f} {units[0]}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def figure(value: float | int | str | bool | None) -> str:
    """A metric: four significant digits are enough to read, counts are kept whole."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return "-" if value is None else value


def printable(text: str) -> str:
    """The text without control characters: what a model wrote must not steer the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
