"""The hash of code: it follows imports and meaning, not text."""

import shutil
from pathlib import Path

import pytest

import mpcwdwm
from mpcwdwm.errors import UserError
from sweeps.plan.code import closure, code_hash


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change."""
    return Path(shutil.copytree(Path(mpcwdwm.__file__).parent, tmp_path / "mpcwdwm"))


def edit(package: Path, name: str, old: str, new: str) -> Path:
    """Return another copy of the package with one replacement in one file."""
    copy = package.parent / f"copy{len(list(package.parent.iterdir()))}" / "mpcwdwm"
    shutil.copytree(package, copy)
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new, 1))
    return copy


REBRAC = ("mpcwdwm.training.loop", "mpcwdwm.components.rebrac")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("components/rebrac.py", "return ", "return 0 or "),  # the module itself
        ("components/actor_critic.py", "torch.tanh(", "torch.sin("),  # imported by it
        ("nn/networks.py", "return ", "return 0 or "),  # imported by what it imports
        ("data/dataset.py", "np.cumsum(ends[:-1])", "np.cumsum(ends[1:])"),  # imported through a package's names
        ("random.py", "BLOCK_STEPS = 64", "BLOCK_STEPS = 65"),  # a constant
    ],
)
def test_a_change_of_code_anywhere_below_changes_the_hash(package: Path, name: str, old: str, new: str) -> None:
    assert code_hash(*REBRAC, package=edit(package, name, old, new)) != code_hash(*REBRAC, package=package)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("components/rebrac.py", "\nimport torch\n", "\nimport torch  # the library\n\n\n"),  # a comment
        ("nn/networks.py", '"""', '"""Another docstring: '),
        ("components/component.py", '"gradient updates"', '"updates of the parameters"'),  # describes a setting
        ("training/buffer.py", "no usable transitions", "nothing to learn from"),  # what an error says
        ("components/iql.py", "return ", "return 0 or "),  # another component
        ("planning/mpc.py", "return ", "return 0 or "),  # a planner
        ("components/registry.py", "return ", "return 0 or "),  # only names things
        ("data/download.py", "return ", "return 0 or "),  # beside the reader, not used by it
    ],
)
def test_what_cannot_change_a_result_leaves_the_hash(package: Path, name: str, old: str, new: str) -> None:
    assert code_hash(*REBRAC, package=edit(package, name, old, new)) == code_hash(*REBRAC, package=package)


def test_the_hash_is_the_same_in_every_python(tmp_path: Path) -> None:
    """Recorded with 3.11 and 3.12, which unparse f-strings in another way."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    text = """def say(row, width):\n    return f"{row['a']!r:>{width}} of {row['b'] if row else 'none'} {{}}"\n"""
    (tmp_path / "pack" / "a.py").write_text(text)
    assert (
        code_hash("pack.a", package=tmp_path / "pack")
        == "dad563f16b6fcf2860e3de1634f8853cffc64bf4028b02189b58bc5828754289"
    )


@pytest.mark.parametrize(("old", "new"), [("!r", "!s"), (":>", ":<"), ("seeds", "seed"), ("{x}", "{y}")])
def test_what_an_f_string_says_counts(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "a.py").write_text(text := "def say(x, y):\n    return f'seeds {x} {y!r:>5}'\n")
    before = code_hash("pack.a", package=tmp_path / "pack")
    (tmp_path / "pack" / "b.py").write_text(text.replace(old, new))
    (tmp_path / "pack" / "b.py").rename(tmp_path / "pack" / "a.py")
    assert code_hash("pack.a", package=tmp_path / "pack") != before


def test_imports_inside_functions_and_relative_ones_are_followed(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "sub").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "a.py": "import numpy\ndef f():\n    from .sub import g\n    return g",
        "sub/__init__.py": "from .b import g\nfrom .unused import h",
        "sub/b.py": "import pack.c\nfrom .. import d\ng = 1",
        "sub/unused.py": "h = 2",
        "c.py": "",
        "d.py": "import pack.a",  # a cycle
    }
    for name, text in files.items():
        (package / name).write_text(text)
    assert closure("pack.a", package=package) == ["pack.a", "pack.c", "pack.d", "pack.sub.b"]


def test_what_only_a_type_checker_imports_does_not_count(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    guarded = "import typing\nif typing.TYPE_CHECKING:\n    from pack import heavy\nelse:\n    from pack import light"
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(guarded)
    (package / "heavy.py").write_text("y = 1")
    (package / "light.py").write_text("z = 1")
    assert closure("pack.a", package=package) == ["pack.a", "pack.light"]
    before = code_hash("pack.a", package=package)
    (package / "a.py").write_text(guarded.replace("import heavy", "import heavy, light"))
    assert code_hash("pack.a", package=package) == before
    (package / "a.py").write_text(guarded.replace("import light", "import heavy"))
    assert code_hash("pack.a", package=package) != before


def test_the_source_of_another_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "strangers_planners"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shooting.py").write_text("from mpcwdwm import random\nfrom strangers_planners.spread import std")
    (package / "spread.py").write_text("std = 0.2")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash("strangers_planners.shooting")
    assert {"strangers_planners.shooting", "strangers_planners.spread"} <= set(closure("strangers_planners.shooting"))
    (package / "spread.py").write_text("std = 0.3")
    assert code_hash("strangers_planners.shooting") != before


def test_a_module_beside_ones_own_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone_planners.py").write_text("import numpy\nfrom lone_helpers import std\n")
    helpers = tmp_path / "lone_helpers.py"
    helpers.write_text("std = 0.2")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash("lone_planners")
    helpers.write_text("std = 0.3")
    assert code_hash("lone_planners") != before
    assert closure("lone_planners") == ["lone_helpers", "lone_planners"]


def test_installed_libraries_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "strangers_lone.py").write_text("from strangers_library import std\n")
    (installed / "strangers_library.py").write_text("std = 0.2")
    monkeypatch.syspath_prepend(str(installed))
    assert closure("strangers_lone") == ["strangers_lone"]


@pytest.mark.parametrize(
    ("module", "said"), [("nowhere_to_be_found.planners", "cannot be imported"), ("math", "has no Python source")]
)
def test_a_module_without_source_is_refused_in_one_line(module: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        code_hash(module)
