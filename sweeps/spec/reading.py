"""A sweep's YAML as far as it can be read and checked without torch, which takes a second to load.

Here are its syntax, the options of the command line, and every section but the contents of tasks, components and
planners. Commands that only look at records (`sweeps.watch_commands`) need no more. Tasks (`sweeps.spec.tasks`) and
what the source of settings says (`sweeps.spec.source_checks`) follow, without torch, then the rest
(`sweeps.spec.spec`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from analysis.mlflow_store import check_tracking_uri
from mpcwdwm.errors import UserError
from mpcwdwm.paths import user_path
from mpcwdwm.validation import Where
from sweeps.spec.document import Document, read_document
from sweeps.spec.names import Found, find_spec, part_name
from sweeps.spec.places import elsewhere
from sweeps.spec.schema import SpecFile, known_keys

__all__ = ["ELSEWHERE", "Reading", "read_spec"]

# Sections that change no result; nor does `compute`, but for TF32.
ELSEWHERE = ("description", "resources", "cluster", "storage", "tracking")
COMPUTED = "compute.tf32"
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")  # of a shell
ANCHORS = "x-"  # how keys at the top begin that only hold what others refer to, as in Docker's files


@dataclass(frozen=True)
class Reading:
    """A YAML with the options applied."""

    found: Found
    document: Document
    file: SpecFile
    set_at: tuple[Where, ...]  # what ``--set`` gave, in order
    options: tuple[str, ...]  # those that may change a result, as text
    storage: str  # absolute folder or URL
    tracking_uri: str

    @property
    def record(self) -> str:
        """Return the name under which it is recorded if the options change a result."""
        return part_name(self.file.name, self.options)


def read_spec(
    spec: str | Path,
    *,
    sets: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
    seeds: str | None = None,
    folder: Path | None = None,
) -> Reading:
    """Read a sweep; the arguments are those of `sweeps.spec.spec.load_spec`.

    Raises:
        UserError: there is no such sweep, it is no YAML, or a section or an option is wrong; with file and line.
    """
    found = find_spec(spec, folder or Path.cwd())
    document = read_document(found.path)
    for name in [name for name in document.data if name.startswith(ANCHORS)]:
        document.remove((name,))
    set_at = tuple(_assign(document, given) for given in sets)
    if seeds is not None:
        document.assign(("seeds",), f"[{seeds}]" if "," in seeds else seeds, f"--seeds {seeds}")
    try:
        file = SpecFile.model_validate(document.data)
    except ValidationError as error:
        raise document.translated(error, lambda at: at, known_keys, elsewhere) from None
    _check_methods(document, file)
    _check_select(document, file)
    storage = _storage_place(document, file, found.folder)
    tracking_uri = _tracking_uri(document, file, found.folder, storage)
    return Reading(found, document, file, set_at, _options(sets, tasks, seeds), storage, tracking_uri)


def _check_methods(document: Document, file: SpecFile) -> None:
    """Raise UserError if a baseline is listed twice, or there is nothing to evaluate."""
    for index, name in enumerate(file.baselines):
        if name in file.baselines[:index]:
            raise document.error(("baselines", index), f"baseline '{name}' is listed twice")
    if not file.baselines and not file.planners:
        raise document.error((), "neither planners nor baselines: there is nothing to evaluate")


def _check_select(document: Document, file: SpecFile) -> None:
    """Raise UserError if ``evaluation.select`` has nothing to choose, or chooses on what is reported."""
    at: Where = ("evaluation", "select")
    select = file.evaluation.select
    if select is None:
        return
    if not file.planners:
        raise document.error(at, "evaluation.select chooses among planners, and there are none")
    if both := sorted(set(select.seeds) & set(file.seeds)):
        message = f"seed {both[0]} is in evaluation.select.seeds and in seeds: choose on others than are reported"
        raise document.error((*at, "seeds"), message)
    if select.env_seed == file.evaluation.env_seed:
        message = f"evaluation.select.env_seed is evaluation.env_seed, {select.env_seed}: choose on other episodes"
        raise document.error((*at, "env_seed"), message)


def _assign(document: Document, given: str) -> Where:
    """Apply ``--set KEY=VALUE`` and return where."""
    name, equals, value = given.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set {given}: expected key=value, such as evaluation.episodes=20")
    at = document.find(name.strip())
    document.assign(at, value, f"--set {given}")
    return at


def _options(sets: Sequence[str], tasks: Sequence[str] | None, seeds: str | None) -> tuple[str, ...]:
    """Return the options that may change a result, as text; none where the sweep is given a name of its own."""
    keys = {given: given.partition("=")[0].strip() for given in sets}
    if "name" in keys.values():
        return ()
    kept = [given for given, key in keys.items() if key == COMPUTED or key.split(".")[0] not in (*ELSEWHERE, "compute")]
    shown = [] if tasks is None else [f"--tasks {','.join(tasks)}"]
    shown += [] if seeds is None else [f"--seeds {seeds.replace(' ', '')}"]
    return (*shown, *(f"--set {given}" for given in sorted(kept)))


def _storage_place(document: Document, file: SpecFile, folder: Path) -> str:
    """Return where artifacts and results lie: a URL as it is, a folder as an absolute path."""
    if not file.storage.strip():
        raise document.error(("storage",), "storage is empty; give a folder or a URL")
    if VARIABLE.search(file.storage):  # else a folder of that name comes to be, and the results are looked for in vain
        message = f"storage: variables are not replaced in '{file.storage}': write the path, or begin it with ~"
        raise document.error(("storage",), message)
    if file.storage.startswith("file://"):
        return os.path.normpath(unquote(urlsplit(file.storage).path))
    try:
        return file.storage if "://" in file.storage else os.path.normpath(folder / user_path(file.storage))
    except UserError as error:
        raise document.error(("storage",), f"storage {error}") from None


def _tracking_uri(document: Document, file: SpecFile, folder: Path, storage: str) -> str:
    """Return an absolute MLflow URI; by default a sqlite file in the storage folder."""
    uri = file.tracking.uri
    if uri is None:
        return f"sqlite:///{folder if '://' in storage else storage}/mlflow.db"
    if uri.startswith("sqlite:///") and VARIABLE.search(uri):
        raise document.error(
            ("tracking", "uri"), f"tracking.uri: variables are not replaced in '{uri}': write the path"
        )
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{os.path.normpath(folder / uri.removeprefix('sqlite:///'))}"
    try:
        return check_tracking_uri(uri)
    except UserError as error:
        raise document.error(("tracking", "uri"), str(error)) from None
