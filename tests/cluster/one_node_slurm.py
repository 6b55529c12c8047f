"""A real SLURM of one node on this machine, with files and ports of its own, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
MpiDefault=none
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


def why_not() -> str:
    """Return why no SLURM can be started here; empty where one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM is not installed here: {', '.join(missing)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "a SLURM for a test is started by root"


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """Start it; yield its configuration, whose jobs and daemons end with the block."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key, config, host = folder / "key", folder / "slurm.conf", socket.gethostname().split(".")[0]
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config.write_text(CONFIG.format(host=host, folder=folder, ports=_free_ports(2), cpus=os.cpu_count()))
    own = {**os.environ, "SLURM_CONF": str(config)}
    places = [f"--{name}={folder / file}" for name, file in (
        ("key-file", "key"), ("socket", "munge.socket"), ("pid-file", "munged.pid"), ("log-file", "munged.log"),
        ("seed-file", "munged.seed"))]  # fmt: skip
    commands = (["munged", "--foreground", "--force", *places], ["slurmctld", "-D"], ["slurmd", "-D", "-N", host])
    daemons = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, env=own, stdout=out, stderr=out, start_new_session=True))
            time.sleep(1.5)
        _wait_until_idle(own)
        yield config
    finally:
        subprocess.run(["scancel", "--user", "root"], env=own, check=False, timeout=30)
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _wait_until_idle(own: dict[str, str]) -> None:
    for _ in range(60):
        done = subprocess.run(["sinfo", "-h", "-o", "%t"], env=own, capture_output=True, text=True, check=False)
        if "idle" in done.stdout.split():
            return
        time.sleep(0.5)
    raise AssertionError(f"the node does not come up: {done.stdout} {done.stderr}")
