"""Fuzzing that follows coverage, of what reads YAML and HDF5: atheris keeps the inputs that reach new code.

    pip install atheris
    python tests/fuzzing/guided.py yaml -runs=10000
    python tests/fuzzing/guided.py hdf5 -runs=10000

Options are libFuzzer's. It ends with the input in a file if one is neither read nor refused in a line. HDF5's library
is C: its inside is not followed, only how we use it.
"""

import sys
import tempfile
from pathlib import Path

SECONDS, MEGABYTES = 60, 4096  # for one input
LONGEST = {"yaml": 4096, "hdf5": 65536}  # bytes of an input


def main() -> None:
    """Fuzz one target; libFuzzer ends the process."""
    sys.path.insert(0, str(Path(__file__).parents[2]))  # `tests`, from wherever it is started
    kind, *options = sys.argv[1:] or [""]
    if kind not in LONGEST:
        sys.exit(f"usage: {sys.argv[0]} {' | '.join(LONGEST)} [-runs=N] [CORPUS]")
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["sweeps", "mpcwdwm", "ruamel"]):
        from tests.support.fuzz_targets import TARGETS, seeds

        TARGETS[kind](b"")  # imports what it needs
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(seeds(kind)):
            (Path(corpus) / str(number)).write_bytes(content)
        limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LONGEST[kind]}"]
        atheris.Setup([sys.argv[0], *limits, *options, corpus], TARGETS[kind])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
