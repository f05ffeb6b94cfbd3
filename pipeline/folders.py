"""The verbs about folders with weights: `diff`, `verify` and `replay`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from pipeline.arguments import DONE, FAILED, WRONG, parser_of
from pipeline.errors import InputError

DIFF_ABOUT = """\
equal      the same bits
relative   the norm of B - A over the norm of A
rank       directions of B - A above what rounding to the dtype makes; counted up to 128

exit codes: 0 equal; 1 different; 2 they cannot be compared
"""

VERIFY_ABOUT = """\
Hashes the files again, and looks whether config, index, tokenizer and tensors fit each other. With base and
adapters at hand it also holds every tensor against what they make of it. What could not be checked is said.

exit codes: 0 all that was checked holds; 1 something is wrong; 2 it cannot be checked
"""

REPLAY_ABOUT = """\
exit codes: 0 the same bytes; 1 other bytes, or it failed; 2 the receipt or an input is missing
"""


def diff(words: list[str], quiet: bool) -> int:
    """Print what differs between two checkpoints."""
    parser = parser_of(
        "diff",
        "What differs between two checkpoints (models or adapters), tensor by tensor.",
        epilog=DIFF_ABOUT,
    )
    parser.add_argument("a", metavar="A", help="a folder, or an id on the Hub")
    parser.add_argument("b", metavar="B", help="what to hold against it")
    parser.add_argument("--all", action="store_true", help="a line for every tensor")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(words)
    # Tensors are compared side by side. Threads within each product as well would wait for each other, and on
    # a busy machine that takes many times as long. Read when numpy is first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from pipeline.proof.diff import compare_tensors
    from pipeline.proof.tensors import find_tensors, total_bytes
    from pipeline.report.terminal import make_console

    try:
        a, b = find_tensors(args.a), find_tensors(args.b)
        with make_console(quiet).bar("comparing", total_bytes(a), unit="B") as bar:
            found = list(compare_tensors(a, b, bar.advance))
    except InputError as error:
        return _impossible(error)
    equal = all(one.status == "equal" for one in found)
    if args.json:
        _print_json(
            {"a": args.a, "b": args.b, "equal": equal, "tensors": [one.to_dict() for one in found]}
        )
    elif not quiet:
        from pipeline.report.diff_table import print_diff

        print_diff(found, every=args.all)
    return DONE if equal else FAILED


def verify(words: list[str], quiet: bool) -> int:
    """Check a model folder."""
    parser = parser_of(
        "verify", "Is a model folder whole, and what it says it is?", epilog=VERIFY_ABOUT
    )
    _add_folder(parser)
    args = parser.parse_args(words)
    from pipeline.logs import quiet_libraries
    from pipeline.proof.folder import verify_folder
    from pipeline.report.findings_table import print_findings
    from pipeline.report.terminal import make_console
    from pipeline.run import terminate_politely

    try:
        with quiet_libraries(), terminate_politely():
            found = verify_folder(args.folder, args.base, args.adapter, make_console(quiet))
    except InputError as error:
        return _impossible(error)
    if args.json:
        _print_json({"folder": str(args.folder), **found.to_dict()})
    else:
        more = ", and not all was checked" if found.skipped else ""
        print_findings(found, f"all that was checked holds{more}", quiet=quiet)
    return FAILED if found.faults else DONE


def replay(words: list[str], quiet: bool) -> int:
    """Make a model folder again and compare."""
    parser = parser_of(
        "replay",
        "Make a model folder again from its receipt; are the bytes the same?",
        epilog=REPLAY_ABOUT,
    )
    _add_folder(parser)
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where there is room to make it (TMPDIR)"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that came with the base"
    )
    args = parser.parse_args(words)
    from pipeline.replay import replay
    from pipeline.report.findings_table import print_findings
    from pipeline.report.terminal import make_console
    from pipeline.run import terminate_politely

    try:
        with terminate_politely():
            found = replay(
                args.folder,
                make_console(quiet),
                base=args.base,
                adapters=args.adapter,
                scratch=args.dir,
                trust_remote_code=args.trust_remote_code,
            )
    except InputError as error:
        return _impossible(error)
    if args.json:
        _print_json({"folder": str(args.folder), **found.to_dict()})
    else:
        print_findings(found, "the same bytes", quiet=quiet)
    return FAILED if found.faults else DONE


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a folder that `save` wrote")
    parser.add_argument("--base", metavar="BASE", help="where its base is now")
    parser.add_argument(
        "--adapter",
        metavar="ADAPTER",
        action="append",
        default=[],
        help="where its adapter is now; once for each, in the order of the merge",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _impossible(error: InputError) -> int:
    from pipeline.report.problems import print_error

    print_error(error)
    return WRONG


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
