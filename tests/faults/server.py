"""Import histotune once; then fork a child for every command that is read from standard input."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

TIMEOUT_S = 300


def warm_up() -> None:
    """Import what commands import, so that children need not."""
    import polars  # noqa: F401
    import scipy.special  # noqa: F401
    import timm  # noqa: F401
    import torch  # noqa: F401

    import histotune.cli.main  # noqa: F401


def use_local_homes() -> None:
    """Fetch data sets from the small copies of a test's server, where it names its port."""
    if port := os.environ.get("FAULTS_PORT"):
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from tests.faults.homes import use_small_homes

        use_small_homes(int(port))


def child(asked: dict[str, str]) -> None:
    """Run one command and leave with its exit code."""
    os.setsid()
    os.chdir(asked["cwd"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["histotune", *asked["arguments"]]
    code = 0
    try:
        signal.alarm(TIMEOUT_S)
        from histotune.cli.main import main

        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def serve() -> None:
    """Answer every line with the exit code of its command; a child that a signal ended gives its negative number."""
    warm_up()
    use_local_homes()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(asked)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
