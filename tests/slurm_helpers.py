"""A Slurm cluster of one node on this machine: munged, slurmctld and slurmd, in the foreground."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time

DAEMONS = ("munged", "slurmctld", "slurmd")
START_SECONDS = 60


def find(name):
    """A program's path; daemons are not on the path of all users."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def missing():
    """Daemons that are not installed."""
    return [name for name in DAEMONS if find(name) is None]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def write_config(folder):
    host = socket.gethostname().split(".")[0]
    text = f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    path = folder / "slurm.conf"
    path.write_text(text, encoding="utf-8")
    return path


class Cluster:
    """``with Cluster(folder) as cluster: cluster.call("sinfo")``; the folder's path is short."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def __enter__(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self.env = {**os.environ, "SLURM_CONF": str(write_config(self.folder))}
        try:
            files = {"key-file": key, "socket": self.folder / "munge.socket"}
            files |= {f"{name}-file": self.folder / f"munge.{name}" for name in ("pid", "seed")}
            options = [f"--{name}={path}" for name, path in files.items()]
            self.start("munged", "--foreground", "--force", *options)
            self.wait(lambda: (self.folder / "munge.socket").exists())
            self.start("slurmctld", "-D")
            self.start("slurmd", "-D")
            self.wait(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, name, *arguments):
        log = (self.folder / f"{name}.out").open("wb")
        self.processes.append(
            subprocess.Popen(
                [find(name), *arguments], stdout=log, stderr=log, env=self.env, cwd=self.folder
            )
        )

    def wait(self, done, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while not done():
            ended = [p.args[0] for p in self.processes if p.poll() is not None]
            if ended or time.monotonic() > end:
                raise RuntimeError(f"{ended or 'nothing'} ended; {self.logs()}")
            time.sleep(0.5)

    def logs(self):
        paths = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in paths)

    def call(self, name, *arguments):
        """What a command of Slurm prints."""
        found = subprocess.run(
            [find(name), *map(str, arguments)], capture_output=True, text=True, env=self.env
        )
        return found.stdout + found.stderr

    def __exit__(self, *error):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
