"""Any exception as the manifest and the terminal tell it."""

from __future__ import annotations

from pipeline import logs, memory
from pipeline.disk import no_room
from pipeline.errors import MergelineError
from pipeline.manifest import ErrorRecord
from pipeline.secrets import redact_text


def explain(error: BaseException) -> ErrorRecord:
    """What failed and what to do about it, without secrets."""
    kind = type(error).__name__
    if isinstance(error, MergelineError):
        return ErrorRecord(
            type=kind, what=redact_text(error.what), where=error.where, fix=error.fix
        )
    if isinstance(error, KeyboardInterrupt):
        return ErrorRecord(type=kind, what="interrupted", fix="run the same command again")
    if memory.is_out_of_memory(error):
        fix = (
            "free memory, or spread the base with `load_base.device_map=auto` and `offload_folder`"
        )
        return ErrorRecord(type=kind, what="out of memory", fix=fix)
    if lack := no_room(error):
        where = str(getattr(error, "filename", None) or "") or None
        return ErrorRecord(type=kind, what=lack.what, where=where, fix=lack.fix)
    first = (str(error).strip().splitlines() or ["no message"])[0]
    fix = f"the whole traceback is in {logs.FILE_NAME} in the run's folder; --debug prints it"
    return ErrorRecord(type=kind, what=redact_text(f"{kind}: {first}"), fix=fix)
