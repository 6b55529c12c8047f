"""A command as jobs of a cluster, by submitit: on SLURM, or as processes of this machine.

Before a job is taken away SLURM sends the signal USR2 (its time is up, or a job of more weight came), which submitit
asks for with ``--signal`` and answers by asking for the job anew. SLURM sends it to every process of the job: the
command itself ignores it, and the process that started it passes it on as SIGTERM, at which a training writes its
checkpoint. The job that comes after runs the same command, which goes on where it stopped.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histotune.tools.atomic import explained_os_errors
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTALL = 'pip install "histotune[slurm]"'
ExecutorName = Literal["auto", "local", "slurm"]
EXECUTORS: tuple[ExecutorName, ...] = ("auto", "local", "slurm")
TERMINATED = 128 + signal.SIGTERM
STOPPED = (TERMINATED, -signal.SIGTERM)
POLL_S = 0.1
MOST_REQUEUES = 1000  # a job that goes on where it stopped may be taken away as often as it comes


@dataclass(frozen=True)
class JobOptions:
    """What a job is given.

    Attributes:
        executor: ``slurm``, ``local``, or ``auto``: SLURM where its commands are here.
        folder: Where submitit keeps what it starts jobs with, and every log.
        ranks: Processes that share the shards of an embedding, on all nodes of a job.
        nodes: Machines of a job.
        gpus: Per node; 0 asks for none.
        cpus: Per rank.
        memory_gb: Per node; 0 leaves it to the cluster.
        hours: Longest time of a job until it is asked for anew.
        notice_s: How long before its end a job is told, seconds.
        partition: Of SLURM; empty takes its default.
        account: Of SLURM; empty takes its default.
    """

    executor: ExecutorName = "auto"
    folder: Path = Path("jobs")
    ranks: int = 1
    nodes: int = 1
    gpus: int = 1
    cpus: int = 4
    memory_gb: float = 0.0
    hours: float = 12.0
    notice_s: int = 120
    partition: str = ""
    account: str = ""


@dataclass(frozen=True)
class ClusterCommand:
    """A command of histotune's as submitit calls it, in every rank of a job.

    Attributes:
        words: The command, without its first word.
        ranks: How many processes share it.
        folder: Where it runs.
    """

    words: tuple[str, ...]
    ranks: int
    folder: str

    def __call__(self) -> int:
        """Run the command to its end.

        Returns:
            0.

        Raises:
            RuntimeError: The command failed; its log says why.
            SystemExit: The command was stopped; what comes after goes on from there.
        """
        import submitit
        from submitit.core.job_environment import JobEnvironment

        variables = dict(os.environ)
        if self.ranks > 1:
            place = submitit.helpers.TorchDistributedEnvironment()
            names = ("rank", "world_size", "local_rank", "local_world_size", "master_addr", "master_port")
            variables |= {name.upper(): str(getattr(place, name)) for name in names}
        number = JobEnvironment._usr_sig()
        print("+", shlex.join(("histotune", *self.words)), flush=True)
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {number}
        )  # the command inherits that, and never sees the notice itself
        try:
            command = [sys.executable, "-m", "histotune", *self.words]
            child = subprocess.Popen(command, env=variables, cwd=self.folder)  # noqa: S603  (histotune itself)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        code = _end_of(child, number)
        if code in STOPPED:
            raise SystemExit(TERMINATED)
        if code != 0:
            raise RuntimeError(f"exit code {code}: histotune {shlex.join(self.words)}; see the log")
        return code

    def checkpoint(self) -> Any:  # noqa: ANN401  (an optional package)
        """Return what submitit starts when the job was taken away: the same command, which goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _end_of(child: subprocess.Popen[bytes], number: int) -> int:
    """Wait for the command; when the notice comes, stop it first and then do what submitit does with the notice.

    The handler only takes note: one that waited for the command itself would wait for the lock of the wait that it
    interrupted.
    """
    asks_anew, told = signal.getsignal(number), threading.Event()
    signal.signal(number, lambda signal_number, frame: told.set())
    while child.poll() is None:
        if told.is_set():
            child.terminate()
            child.wait()
            if callable(asks_anew):
                asks_anew(number, None)  # rank 0 asks for the job anew and leaves; the others come back from it
            return TERMINATED
        time.sleep(POLL_S)
    return child.returncode


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was handed over.

    Attributes:
        words: Its command.
        job_id: As the cluster calls it.
        logs: Standard output per rank; what was written to standard error lies beside it under ``.err``.
        handle: Submitit's own.
    """

    words: tuple[str, ...]
    job_id: str
    logs: tuple[Path, ...]
    handle: Any = field(repr=False)

    def failure(self) -> str:
        """Wait for the end of all ranks; return what went wrong, empty where nothing did."""
        self.handle.wait()
        found = [f"rank {rank}: {error}" for rank, error in enumerate(self._errors()) if error]
        return "; ".join(found)

    def _errors(self) -> list[str]:
        errors = [self.handle.task(rank).exception() for rank in range(len(self.logs))]
        return ["" if error is None else _in_one_line(str(error)) for error in errors]


def _in_one_line(error: str) -> str:
    """Return what an error of a job's says: the last line of its traceback that names one, or its first line."""
    named = re.findall(r"^(?:\w+\.)*\w+Error: (.+)$", error, flags=re.MULTILINE)
    return named[-1] if named else error.strip().splitlines()[0]


def submit(commands: Sequence[Sequence[str]], options: JobOptions) -> tuple[SubmittedJob, ...]:
    """Hand commands over as jobs; several are one array of SLURM.

    Args:
        commands: Each a command of histotune's, without the first word.
        options: What each job is given.

    Returns:
        The jobs, which go on when this process ends.

    Raises:
        UserError: Submitit is not installed, SLURM is not here or refuses the job, or ranks can't be dealt to nodes.

    Example:
        >>> jobs = submit([("embed", "pcam", "--data", "data/pcam")], JobOptions(ranks=4))  # doctest: +SKIP
        >>> jobs[0].failure()  # doctest: +SKIP
        ''
    """
    require_submitit(options.executor)
    import submitit

    folder = options.folder.expanduser().absolute()
    with explained_os_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # submitit reads pickles from it: nobody else writes here
    cluster = None if options.executor == "auto" else options.executor
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=MOST_REQUEUES)
    executor.update_parameters(**_parameters(options))
    calls = [ClusterCommand(tuple(words), options.ranks, str(Path.cwd())) for words in commands]
    try:
        with executor.batch():
            handles = [executor.submit(call) for call in calls]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        raise UserError(
            f"the job was not taken: {' '.join(str(error).split())}",
            fix="look at --partition, --account, --gpus 0, --memory; what the cluster has: sinfo",
        ) from error
    return tuple(_submitted(call, handle, options.ranks) for call, handle in zip(calls, handles, strict=True))


def require_submitit(executor: str) -> None:
    """Find out whether jobs can be handed over.

    Raises:
        UserError: Submitit is missing, or SLURM is asked for and not here.
    """
    import shutil

    if find_spec("submitit") is None:
        raise UserError("jobs need the package submitit, which is not installed", fix=INSTALL)
    if executor == "slurm" and shutil.which("srun") is None:
        raise UserError(
            "SLURM is not on this machine: there is no srun", fix="go to the cluster's login node, or --executor local"
        )


def divided(words: Sequence[str], field_name: str, values: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return a command per value of a field, each with a folder of its own below ``--out``.

    Args:
        words: The command.
        field_name: A field of its config, by its dotted name.
        values: What it takes.

    Raises:
        UserError: A value comes twice, or the command names its folder in no way that can be divided.

    Example:
        >>> divided(("finetune", "pcam", "--out", "runs"), "finetune.loop.seed", ("0", "1"))[1]
        ('finetune', 'pcam', '--out', 'runs/finetune.loop.seed-1', '--set', 'finetune.loop.seed=1')
    """
    if len(set(values)) < len(values) or not all(values):
        raise UserError("each value is needed once", value=",".join(values), fix=f"--over {field_name}=0,1,2")
    return tuple((*_with_own_out(words, f"{field_name}-{one}"), "--set", f"{field_name}={one}") for one in values)


def _with_own_out(words: Sequence[str], name: str) -> tuple[str, ...]:
    plain = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)
    if "--out" in words[:-1]:
        place = words.index("--out") + 1
        return (*words[:place], str(Path(words[place]) / plain), *words[place + 1 :])
    return tuple(f"{word}/{plain}" if word.startswith("--out=") else word for word in words)


def _parameters(options: JobOptions) -> dict[str, Any]:
    """Return what submitit's executors are told."""
    per_node, rest = divmod(options.ranks, options.nodes)
    if rest or per_node == 0:
        raise UserError(
            "the ranks can't be dealt evenly to the nodes",
            value=f"{options.ranks} ranks, {options.nodes} nodes",
            fix=f"--ranks {options.nodes * max(per_node, 1)} --nodes {options.nodes}",
        )
    minutes = math.ceil(options.hours * 60)
    notice_s = min(options.notice_s, 30 * minutes)
    given: dict[str, Any] = {
        "name": "histotune", "nodes": options.nodes, "tasks_per_node": per_node, "cpus_per_task": options.cpus,
        "timeout_min": minutes, "slurm_signal_delay_s": notice_s,
    }  # fmt: skip
    optional = {
        "gpus_per_node": options.gpus, "mem_gb": options.memory_gb, "slurm_partition": options.partition,
        "slurm_account": options.account,
    }  # fmt: skip
    return {**given, **{name: value for name, value in optional.items() if value}}


def _submitted(call: ClusterCommand, handle: Any, ranks: int) -> SubmittedJob:  # noqa: ANN401  (an optional package)
    logs = tuple(Path(handle.task(rank).paths.stdout) for rank in range(ranks))
    return SubmittedJob(call.words, str(handle.job_id), logs, handle)


def wait_for(jobs: Sequence[SubmittedJob]) -> tuple[str, ...]:
    """Wait for jobs and return what went wrong in each, empty where nothing did."""
    return tuple(job.failure() for job in jobs)
