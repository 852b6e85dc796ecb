"""YAML as plain data with the line of every key and value.

The lines let whatever is found wrong later be reported as ``sweep.yaml:12: …``. ruamel.yaml parses; scalars
follow the core schema of YAML 1.2: ``1e-5`` and ``1e6`` are numbers, ``no`` and ``2026-01-01`` are text. Merge
keys (``<<``) work. Repeated keys, foreign tags, a second document and aliases that multiply are refused.
"""

import io
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from mpcwdwm.errors import UserError
from mpcwdwm.validation import Where, first_finding

__all__ = ["Document", "parse_document", "read_document", "write_yaml"]

MAX_BYTES = 2**20  # a sweep is a page or two; a megabyte is a wrong file
MAX_VALUES = 50_000  # values after aliases are expanded: stops anchors that double on every line
TAG = "tag:yaml.org,2002:"
CORE_SCHEMA = {  # tag → (what a plain scalar looks like, its first characters)
    "null": (r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    "merge": (r"<<$", "<"),
}

# Documents


@dataclass
class Document:
    """Plain data and the place of every part of it."""

    source: str  # the file's name in messages
    data: dict[str, Any]
    values: dict[Where, str] = field(default_factory=dict)  # where a value starts: "sweep.yaml:12"
    keys: dict[Where, str] = field(default_factory=dict)  # where a mapping's key stands

    def place(self, at: Where, *, key: bool = False) -> str:
        """Return "file:line" of the value (or its key) at `at`, else of the nearest part that has one."""
        found = self.keys.get(at) if key else None
        while found is None and (found := self.values.get(at)) is None and at:
            at = at[:-1]
        return found or self.source

    def get(self, at: Where) -> Any:
        """Return the value at `at`; KeyError or IndexError where there is none."""
        value: Any = self.data
        for step in at:
            value = value[step]
        return value

    def rename(self, at: Where, name: str) -> None:
        """Give the key at `at` another name; a value that stands under that name already is replaced."""
        parent = self.get(at[:-1])
        renamed = {name if key == at[-1] else key: value for key, value in parent.items()}
        parent.clear()
        parent.update(renamed)
        for places in (self.values, self.keys):
            for old in [path for path in places if path[: len(at)] == at]:
                places[(*at[:-1], name, *old[len(at) :])] = places.pop(old)

    def remove(self, at: Where) -> None:
        """Take the key at `at` out."""
        del self.get(at[:-1])[at[-1]]
        for places in (self.values, self.keys):
            for old in [path for path in places if path[: len(at)] == at]:
                del places[old]

    def find(self, name: str) -> Where:
        """Split a dotted name, such as "planners.mpc.horizon"; a key with dots of its own is found if it exists."""
        parts, at = name.split("."), list[str | int]()
        value: Any = self.data
        while parts:
            if isinstance(value, list) and parts[0].isdecimal() and int(parts[0]) < len(value):
                step: str | int = int(parts.pop(0))
            else:
                keys = value if isinstance(value, dict) else ()
                length = next((n for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in keys), 1)
                step, parts = ".".join(parts[:length]), parts[length:]
            at.append(step)
            value = value[step] if isinstance(step, int) else value.get(step) if isinstance(value, dict) else None
        return tuple(at)

    def assign(self, at: Where, text: str, source: str) -> None:
        """Put a value, given as YAML, at `at`, creating mappings on the way; its place is `source`."""
        node = _compose(text, source)
        parent: Any = self.data
        for depth, step in enumerate(at[:-1], start=1):
            if isinstance(parent, dict) and parent.get(step) is None:  # absent, or an empty section
                parent[step] = {}
                self.values[at[:depth]] = self.keys[at[:depth]] = source
            parent = parent[step] if _has_place(parent, step) else None
        if not _has_place(parent, at[-1]):
            raise UserError(f"{source}: there is nothing to set at '{at[-1]}'")
        for places in (self.values, self.keys):
            for old in [path for path in places if path[: len(at)] == at]:
                del places[old]
            places[at] = source
        parent[at[-1]] = None if node is None else _Construction(self, place=source).value(node, at, ())

    def error(self, at: Where, message: str, *, key: bool = False) -> UserError:
        """Return the error to raise for what stands at `at`: "file:line: message"."""
        return UserError(f"{self.place(at, key=key)}: {message}")

    def translated(
        self,
        error: ValidationError,
        locate: Callable[[Where], Where],
        known: Callable[[Where], Iterable[str]],
        elsewhere: Callable[[str], str],
    ) -> UserError:
        """Return pydantic's findings as one line: the first, and how many more; arguments as in `first_finding`."""
        found = first_finding(error, known, locate, elsewhere)
        return self.error(found.at, found.message, key=found.in_key)


def _has_place(parent: Any, step: str | int) -> bool:
    """Say whether a value can be put under `step` of `parent`."""
    return isinstance(parent, dict if isinstance(step, str) else list)


# Reading


def read_document(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping; UserError with file and line otherwise."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a folder, not a YAML file")
        if not stat.S_ISREG(status.st_mode):  # a pipe that nobody writes to, or a device without an end
            raise UserError(f"{path}: is a pipe or a device, not a YAML file")
        if status.st_size > MAX_BYTES:
            raise UserError(f"{path}: {status.st_size} bytes is too long for a sweep; is this the right file?")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path.name}:{line}: is not UTF-8 text; save the file as UTF-8") from None
    return parse_document(text, path.name)


def parse_document(text: str, source: str) -> Document:
    """Read YAML text; `source` is the name shown in messages."""
    node = _compose(text, source)
    if node is None:
        raise UserError(f"{source}: is empty; a sweep needs at least name, tasks and seeds")
    document = Document(source, {})
    data = _Construction(document).value(node, (), ())
    if not isinstance(data, dict):
        raise document.error((), f"expected 'key: value' pairs at the top, not a {_kind(node)}")
    document.data = data
    return document


def write_yaml(data: dict[str, Any]) -> str:
    """Return plain data as YAML that `parse_document` reads back."""
    text = io.StringIO()
    _yaml().dump(data, text)
    return text.getvalue()


class _CoreSchema(VersionedResolver):
    """Which type a plain scalar has; ruamel's own rules also take 1_000, -0x1f and dates."""

    processing_version = (1, 2)  # whatever a %YAML line says
    versioned_resolver: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, (_pattern, _starts) in CORE_SCHEMA.items():
    for _start in _starts:
        _CoreSchema.versioned_resolver.setdefault(_start, []).append((TAG + _name, re.compile(_pattern)))


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _CoreSchema
    yaml.default_flow_style = False
    yaml.width = MAX_BYTES  # lines are not folded: ruamel loses spaces in a row where it folds
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.composer.warn_double_anchors = False
    return yaml


def _compose(text: str, source: str) -> Node | None:
    """Parse to nodes, which know their lines; every YAML error becomes one line."""
    try:
        return _yaml().compose(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{source}:{line}: contains a character that YAML does not allow") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context or "is not YAML"
        if "another document" in problem:
            problem = "a second document begins here; a sweep is one"
        if "'\\t'" in problem:
            problem = "a tab where YAML wants spaces"
        raise UserError(f"{source}:{line}: {problem}") from None
    except RecursionError:
        raise UserError(f"{source}: is nested too deeply") from None


def _kind(node: Node) -> str:
    return {SequenceNode: "list", ScalarNode: "single value"}.get(type(node), "mapping")


def _tag(node: Node) -> str:
    return (node.tag or "!").replace(TAG, "!!")


def _is_text(text: str) -> bool:
    """Return whether a text can be written to a file and name one; an escape in quotes may say anything."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return "\0" not in text


class _Construction:
    """Nodes to plain data, noting the place of each part in a document: its line, or `place` if that is given."""

    def __init__(self, document: Document, *, place: str = "") -> None:
        self.document, self.fixed_place, self.count = document, place, 0
        self.constructor = _yaml().constructor

    def place(self, node: Node) -> str:
        """Return what messages about a node begin with."""
        return self.fixed_place or f"{self.document.source}:{node.start_mark.line + 1}"

    def refuse(self, node: Node, message: str) -> NoReturn:
        """Raise the error that stands at a node."""
        raise UserError(f"{self.place(node)}: {message}")

    def enter(self, node: Node, above: tuple[Node, ...]) -> tuple[Node, ...]:
        """Return `above` with the node itself; refuse one value too many, and a node inside itself."""
        self.count += 1
        if self.count > MAX_VALUES:
            self.refuse(node, f"more than {MAX_VALUES} values; do aliases (*name) multiply?")
        if any(node is parent for parent in above):
            self.refuse(node, "an alias (*name) inside its own anchor")
        return (*above, node)

    def value(self, node: Node, at: Where, above: tuple[Node, ...]) -> Any:
        """Return the plain value of a node that lies in the nodes `above`."""
        above = self.enter(node, above)
        self.document.values[at] = self.place(node)
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if isinstance(node, SequenceNode) and _tag(node) == "!!seq":
            return [self.value(part, (*at, i), above) for i, part in enumerate(node.value)]
        pairs: dict[str, Any] = {}
        for name, (key, value) in self.pairs(node, above).items():
            self.document.keys[(*at, name)] = self.place(key)
            pairs[name] = self.value(value, (*at, name), above)
        return pairs

    def pairs(self, node: Node, above: tuple[Node, ...]) -> dict[str, tuple[Node, Node]]:
        """Return a mapping's key and value nodes by name, what it merges first; repeated keys are refused."""
        if not isinstance(node, MappingNode) or _tag(node) != "!!map":
            self.refuse(node, f"the tag {_tag(node)} is not allowed here")
        merged, own = dict[str, tuple[Node, Node]](), dict[str, tuple[Node, Node]]()
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self.refuse(key, f"a key has to be a plain word, not a {_kind(key)}")
            if not _is_text(key.value):
                self.refuse(key, "a key has a character that no name can have")
            if key.value in own:
                also = "" if self.fixed_place else f", first on line {own[key.value][0].start_mark.line + 1}"
                self.refuse(key, f"key '{key.value}' is given twice{also}")
            own[key.value] = key, value
            if _tag(key) == "!!merge":
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(source, MappingNode):
                        self.refuse(source, f"<< takes mappings (*name), not a {_kind(source)}")
                    merged = {**merged, **self.pairs(source, self.enter(source, above)), **merged}
                del own[key.value]
        return {**merged, **own}

    def scalar(self, node: ScalarNode) -> Any:
        """Return None, a bool, an int, a float or text."""
        kind = _tag(node).removeprefix("!!")
        if kind == "merge":  # << where no key is: text
            return node.value
        if kind not in ("str", *CORE_SCHEMA):
            self.refuse(node, f"the tag {_tag(node)} is not allowed here")
        if not _is_text(node.value):
            self.refuse(node, "a character that no name and no path can have (\\0, or half of a pair of surrogates)")
        try:
            return self.constructor.construct_object(node)
        except (ValueError, LookupError):
            self.refuse(node, f"'{node.value[:40]}' cannot be read as {kind}")
