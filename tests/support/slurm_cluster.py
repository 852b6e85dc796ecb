"""A real Slurm of two nodes on this machine, each node in namespaces of its own: network, processes, mounts, host name.

Debian's packages `slurm-wlm`, `munge` and `iproute2` are needed, and root. Everything lies in one folder and ends with
the outermost process. Ray finds nothing of other tests here, and `ray stop` stops nothing of theirs.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NODES", "Slurm", "lacking", "slurm"]

NODES = 2
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
NAMESPACES = "unshare --net --uts --pid --mount --fork --kill-child --mount-proc"
START_SECONDS = 60.0

CONF = """\
ClusterName=test
SlurmctldHost=controller(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobRequeue=1
KillWait=30
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node[1-{nodes}] NodeAddr=10.77.0.1[1-{nodes}] CPUs=2 RealMemory=4000 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GPUS = "Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n"  # of each node: any two devices that exist
# The controller's namespaces: a bridge, munge, and the nodes', which a pair of devices joins to the bridge.
CONTROLLER = """\
set -e
hostname controller
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/resolv.conf /etc/resolv.conf
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip link set br0 up
munged --foreground --key-file={folder}/munge.key --socket={folder}/munge.sock --pid-file={folder}/munged.pid \\
  --log-file={folder}/munged.log --seed-file={folder}/munge.seed &
for i in $(seq {nodes}); do
  {namespaces} bash {folder}/node.sh $i >{folder}/node$i.log 2>&1 &
  until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
  ip link add veth$i type veth peer name eth0 netns $!
  ip link set veth$i master br0 up
done
until [ -S {folder}/munge.sock ]; do sleep 0.05; done
exec slurmctld -D -c
"""
NODE = """\
set -e
hostname node$1
mkdir -p /tmp/ray
mount -t tmpfs ray /tmp/ray
mount -t tmpfs shm /dev/shm
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add 10.77.0.1$1/24 dev eth0
ip link set eth0 up
until [ -S {folder}/munge.sock ]; do sleep 0.05; done
slurmd -D -N node$1 &
wait $!  # the first process of a namespace has to reap what ends in it, as slurmd does not
"""


def lacking() -> str:
    """Return in a line what keeps a Slurm from being started here, "" if nothing does."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if not shutil.which(name, path=path)]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurm-wlm munge iproute2"
    if os.geteuid():
        return "root is needed for namespaces"
    tried = subprocess.run([*NAMESPACES.split(), "true"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Slurm:
    """The running cluster.

    Attributes:
        folder: of its files; HOME of jobs is in it.
        inside: pid of a process in the controller's namespaces.
    """

    folder: Path
    inside: int

    def run(self, *command: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller, as on a login node."""
        enter = ["nsenter", "--target", str(self.inside), "--net", "--uts", "--pid", "--mount"]
        environment = {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf", "HOME": f"{self.folder}/home"}
        environment.pop("RAY_ADDRESS", None)
        place = ["--wd=" + str(cwd)] if cwd else []
        return subprocess.run(
            [*enter, *place, *command], env=environment, capture_output=True, text=True, check=check, timeout=300
        )

    def state(self, job: str) -> str:
        """Return the state of a job, as in "RUNNING"."""
        shown = self.run("scontrol", "show", "--oneliner", "job", job).stdout
        return dict(part.partition("=")[::2] for part in shown.split())["JobState"]

    def logs(self) -> str:
        """Return the ends of all logs, for a failed test."""
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def slurm() -> Iterator[Slurm]:
    """Start a Slurm and end all of it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge wants to be reached by everybody
    for name in ("state", "home", *(f"spool-node{i + 1}" for i in range(NODES))):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, nodes=NODES))
    (folder / "gres.conf").write_text(GPUS)
    (folder / "resolv.conf").touch()  # a name server that cannot be reached would be waited for
    hosts = [("127.0.0.1", "localhost"), ("10.77.0.1", "controller")]
    hosts += [(f"10.77.0.1{i + 1}", f"node{i + 1}") for i in range(NODES)]
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for address, name in hosts))
    (folder / "controller.sh").write_text(CONTROLLER.format(folder=folder, nodes=NODES, namespaces=NAMESPACES))
    (folder / "node.sh").write_text(NODE.format(folder=folder))
    environment = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "HOME": f"{folder}/home"}
    environment["PATH"] += ":/usr/sbin:/sbin"
    with (folder / "controller.log").open("wb") as log:
        outer = subprocess.Popen(
            [*NAMESPACES.split(), "bash", f"{folder}/controller.sh"], env=environment, stdout=log, stderr=log
        )
    try:
        yield _ready(folder, outer)
    finally:
        for first in _children(outer):  # with a namespace's first process all of it ends
            os.kill(first, signal.SIGKILL)
        outer.wait(timeout=START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    with contextlib.suppress(OSError):  # it has ended
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    return []


def _ready(folder: Path, outer: subprocess.Popen[bytes]) -> Slurm:
    """Wait until all nodes are idle."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and outer.poll() is None:
        for first in _children(outer):
            cluster = Slurm(folder, first)
            idle = cluster.run("sinfo", "--noheader", "--states=idle", "--format=%D", check=False).stdout.strip()
            if idle == str(NODES):
                return cluster
        time.sleep(0.3)
    cluster = Slurm(folder, 0)
    raise RuntimeError(f"Slurm did not start:\n{cluster.logs()}")
