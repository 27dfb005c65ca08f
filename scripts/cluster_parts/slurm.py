"""A Slurm cluster on this machine: one controller, and nodes that differ by name and port."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

CONFIGURATION = """\
ClusterName=lgd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN\n"
PARTITION = "PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP\n"
PORT = 26817
WAIT = 60


class Slurm:
    """The cluster, as long as the `with` block lasts. Needs root."""

    def __init__(self, folder: Path, nodes: tuple[str, ...], cpus: int) -> None:
        self.folder, self.nodes, self.cpus = folder, nodes, cpus
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Slurm:
        (self.folder / "state").mkdir(parents=True)
        host = socket.gethostname()
        text = CONFIGURATION.format(host=host, port=PORT, folder=self.folder)
        for number, name in enumerate(self.nodes):
            text += NODE.format(name=name, host=host, port=PORT + 1 + number, cpus=self.cpus)
        (self.folder / "slurm.conf").write_text(text + PARTITION.format(names=",".join(self.nodes)))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
        self.start("munged", *(f"--{flag}={self.folder / name}" for flag, name in files.items()), "--force", "-F")
        self.until("munged answers", lambda: (self.folder / "munge.sock").exists())
        self.start("slurmctld", "-D")
        for name in self.nodes:
            self.start("slurmd", "-D", "-N", name)
        self.until("every node is idle", lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self.nodes))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(timeout=WAIT)

    def start(self, *command: str) -> None:
        """Start a daemon."""
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def run(self, *command: str) -> str:
        """What a command prints; nothing if it fails, which it does until the controller answers."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def order(self, *command: str) -> str:
        """What a command prints that must succeed."""
        return subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def until(self, what: str, condition: Callable[[], object], seconds: float = WAIT) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"cluster: {what}: not within {seconds:.0f} s; see {self.folder}")
            time.sleep(0.2)
