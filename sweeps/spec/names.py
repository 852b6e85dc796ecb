"""Which YAML a sweep's name means, and from where its relative paths count.

A file wins over the name of a sweep whose YAML lies in the working folder, and that over the name of a sweep that comes
with the package (``sweeps/specs``). Paths in a file count from its folder; those of a packaged sweep from the working
folder, because results do not belong into an installed package.

A run with options that change what is computed (``--tasks``, ``--seeds``, ``--set``) is a *part*: it is recorded under
a name of its own, below the sweep's, so that the records of the whole sweep stay.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.store import open_store
from mpcwdwm.errors import UserError, did_you_mean
from sweeps.spec.document import read_document

__all__ = ["Found", "find_spec", "list_specs", "packaged_in_use", "packaged_specs", "part_name"]

PACKAGED = Path(__file__).parents[1] / "specs"
SUFFIXES = (".yaml", ".yml")
READABLE = 40  # characters of options in the name of a part
HASHED = 6  # digits that tell parts apart


@dataclass(frozen=True)
class Found:
    """The YAML of a sweep."""

    path: Path
    folder: Path  # what its relative paths count from


def list_specs(folder: Path | str) -> list[tuple[str, Path]]:
    """Return (name, file) of every sweep whose YAML lies in `folder`, by name; other YAML is skipped."""
    specs = []
    for path in _files(Path(folder)):
        try:
            data = read_document(path).data
        except UserError:  # perhaps another program's; naming the file itself shows its error
            continue
        if isinstance(data.get("name"), str) and "tasks" in data:
            specs.append((data["name"], path))
    return sorted(specs)


def packaged_specs() -> list[tuple[str, Path]]:
    """Return (name, file) of every sweep that comes with the package, by name."""
    return list_specs(PACKAGED)


def packaged_in_use(folder: Path) -> list[str]:
    """Return the names of the packaged sweeps that have results or tables below the working folder."""
    found = []
    for name, path in packaged_specs():
        storage = folder / read_document(path).data["storage"]
        if name in open_store(str(storage)).names("sweeps"):
            found.append(name)
    return found


def find_spec(spec: str | Path, folder: Path) -> Found:
    """Return the YAML that is meant.

    Args:
        spec: a file, relative to `folder`, or a sweep's name.
        folder: the working folder.

    Raises:
        UserError: there is no such file and no such sweep (the closest names are suggested), or two of that name.
    """
    path = folder / spec  # an absolute one stays as it is
    # of os: a name that no file could have, such as one of 1,000 characters, is an error to those of pathlib
    if os.path.isfile(path) or (path.suffix in SUFFIXES and os.path.exists(path)):
        return Found(path.resolve(), path.resolve().parent)
    here, packaged = list_specs(folder), packaged_specs()
    found = [file for name, file in here if name == str(spec)]
    if len(found) > 1:
        raise UserError(f"sweep '{spec}' is the name of {' and '.join(file.name for file in found)}: give the file")
    if found:
        return Found(found[0].resolve(), found[0].resolve().parent)
    if named := dict(packaged).get(str(spec)):
        return Found(named.resolve(), folder.resolve())
    if path.suffix in SUFFIXES:
        # of the sweeps there, and without the suffix: ".yaml" alone makes names alike
        files = {file.stem: file.name for _, file in list_specs(path.parent)}
        near = "".join(f" (did you mean '{files[stem]}'?)" for stem in difflib.get_close_matches(path.stem, files, n=1))
        if path.stem in dict(packaged):
            near = f"; '{path.stem}' without {path.suffix} is a sweep that comes with mpcwdwm"
        raise UserError(f"{path}: there is no such file{near}")
    hint = did_you_mean(str(spec), [name for name, _ in (*here, *packaged)])
    where = f"the name of a sweep in {folder.resolve()} or of one that comes with mpcwdwm"
    raise UserError(f"'{spec}' is neither a file nor {where}{hint}; `mpcwdwm sweep specs` lists those")


def part_name(sweep: str, options: Sequence[str]) -> str:
    """Return the name of a part, "NAME/seeds-1-3fa2b1" of ["--seeds 1"]; the sweep's own where there are no options."""
    if not options:
        return sweep
    text = " ".join(options)
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", text.replace("--set ", "")).strip("-._")[:READABLE]
    return f"{sweep}/{readable}-{hashlib.sha256(text.encode()).hexdigest()[:HASHED]}"


def _files(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        return []
    return sorted(path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}") if os.path.isfile(path))
