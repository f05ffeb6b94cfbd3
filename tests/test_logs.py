"""The log of a run is complete, without secrets, and keeps libraries off the terminal."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.logs import run_log


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, as logging is set up once for a whole process."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), **os.environ}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_records_of_all_loggers_and_warnings_are_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "run.log"

    with run_log(file):
        logging.getLogger("mergeline").debug("a detail")
        logging.getLogger("some.library").info("an explanation")
        logging.getLogger("some.library").debug("too much")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("take care", UserWarning, stacklevel=1)

    text = file.read_text()
    assert "DEBUG   mergeline: a detail" in text
    assert "INFO    some.library: an explanation" in text
    assert "take care" in text
    assert "too much" not in text


def test_a_second_run_continues_the_file(tmp_path: Path) -> None:
    for number in (1, 2):
        with run_log(tmp_path / "run.log"):
            logging.getLogger("mergeline").info("run %d", number)

    assert [line[-5:] for line in (tmp_path / "run.log").read_text().splitlines()] == [
        "run 1",
        "run 2",
    ]


def test_the_log_of_a_killed_run_is_complete(tmp_path: Path) -> None:
    code = """
import logging, os, signal, sys
from pathlib import Path
from pipeline.logs import run_log
with run_log(Path(sys.argv[1])):
    for number in range(100):
        logging.getLogger("mergeline").info("line %d", number)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_python(code, tmp_path / "run.log")

    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "run.log").read_text().splitlines()[-1].endswith("line 99")


def test_what_libraries_say_goes_to_the_file_and_not_to_the_terminal(tmp_path: Path) -> None:
    code = """
import logging, sys
from pathlib import Path
from pipeline.logs import run_log
with run_log(Path(sys.argv[1])):
    import bitsandbytes
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.utils import logging as library
    library.get_logger("transformers.modeling").warning("from transformers")
    logging.getLogger("torch.nn").warning("from torch")
    sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    model = AutoModelForCausalLM.from_config(LlamaConfig(num_attention_heads=2, **sizes))
    model.save_pretrained(sys.argv[2])
    AutoModelForCausalLM.from_pretrained(sys.argv[2])
print("before", end="|", file=sys.stderr, flush=True)
library.get_logger("transformers.modeling").warning("after the run")
"""
    done = run_python(code, tmp_path / "run.log", tmp_path / "model")

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == "before|[transformers] after the run\n"
    text = (tmp_path / "run.log").read_text()
    assert "WARNING transformers.modeling: from transformers" in text
    assert "WARNING torch.nn: from torch" in text
    assert "INFO    transformers." in text


def test_logging_is_afterwards_as_it_was(tmp_path: Path) -> None:
    def setup() -> list[object]:
        names = (None, "mergeline", "transformers", "torch")
        loggers = [logging.getLogger(name) for name in names]
        return [(type(g), g.level, list(g.handlers), g.propagate) for g in loggers]

    before, environment = setup(), dict(os.environ)

    with run_log(tmp_path / "run.log"), run_log(tmp_path / "inner.log"):
        assert setup() != before

    assert setup() == before
    assert dict(os.environ) == environment


def test_bars_are_off_during_a_run_and_afterwards_as_they_were(tmp_path: Path) -> None:
    code = """
import sys, warnings
from pathlib import Path
from pipeline.logs import run_log
warnings.simplefilter("error")
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils.logging import is_progress_bar_enabled
def on(): return is_progress_bar_enabled(), not are_progress_bars_disabled()
print(on())
with run_log(Path(sys.argv[1])):
    print(on())
print(on())
"""
    done = run_python(code, tmp_path / "run.log")

    assert done.stdout.split("\n")[:3] == ["(True, True)", "(False, False)", "(True, True)"], (
        done.stderr
    )


def test_secrets_do_not_reach_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-very-long-secret")

    with run_log(tmp_path / "run.log"):
        try:
            raise ValueError("refused: a-very-long-secret")
        except ValueError:
            logging.getLogger("mergeline").exception("with %s", "a-very-long-secret")

    assert "a-very-long-secret" not in (tmp_path / "run.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_neither_stops_the_run_nor_floods_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with run_log(Path("/dev/full")):
        for _ in range(3):
            logging.getLogger("mergeline").info("lost")

    assert capfd.readouterr() == ("", "")
