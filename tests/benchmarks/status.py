"""What `sweep status` takes behind S3: processor seconds of whole processes, for a small and a large sweep.

    PYTHONPATH=. python tests/benchmarks/status.py            # 20 and 10,000 cells

The server is moto's, in this process; its own time does not count. A sweep is begun there and interrupted at its
first line of progress, which leaves its record; then what all units would have published is put behind the server at
once. The last lines are ``RATIO name value``, seconds.
"""

import argparse
import logging
import os
import statistics
from pathlib import Path

from growth import FIRST, cost
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from sweep import folder, sweep_of

from cluster.store import open_store
from cluster.store.files import FOLDERS
from mpcwdwm.artifact_names import MANIFEST
from sweeps.plan.plan import build_plan, cell_packs, component_packs
from sweeps.spec.document import read_document, write_yaml
from sweeps.spec.spec import load_spec
from tests.support.s3 import S3Server

SIZES = (20, 10_000)
RUNS = 5
BUCKET = "bench"
BESIDE_MANIFEST = ("upload~0~0~0/episodes", "upload~0~0~0/trace")  # what an artifact has besides


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    _, port = server.get_host_and_port()
    os.environ |= S3Server(port).environment
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(BUCKET, "us-east-1")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    ratios = [(f"status_on_s3_{size}", status_of(size)) for size in SIZES]
    for name, value in ratios:
        print(f"RATIO {name} {value:.2f}")
    server.stop()


def status_of(cells: int) -> float:
    """Return the least processor seconds of some runs of `sweep status`, which are printed."""
    with folder() as cache, folder() as place:
        sweep_of(cells, place)
        file, root = place / "bench.yaml", f"runs-{cells}"
        document = {**dict(read_document(file).data), "storage": f"s3://{BUCKET}/{root}"}
        file.write_text(write_yaml({**document, "tracking": {"uri": f"sqlite:///{place}/mlflow.db"}}))
        cost(["sweep", "run", "bench.yaml"], place, cache, until=FIRST)
        publish(file, root)
        taken = [cost(["sweep", "status", "bench.yaml"], place, cache) for _ in range(RUNS)]
    processor = [each.processor for each in taken]
    walls = statistics.median(each.wall for each in taken)
    print(f"{cells} cells: processor {min(processor):.2f} to {max(processor):.2f} s, wall {walls:.2f} s", flush=True)
    return min(processor)


def publish(file: Path, root: str) -> None:
    """Put behind the server what all units would publish."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    spec = load_spec(file)
    plan = build_plan(spec, open_store(spec.storage))
    for pack in [*component_packs(plan), *cell_packs(plan)]:
        for key in pack.keys:
            for name in (*BESIDE_MANIFEST, MANIFEST):
                backend.put_object(BUCKET, f"{root}/{FOLDERS[pack.kind]}/{key}/{name}", b"{}")


if __name__ == "__main__":
    main()
