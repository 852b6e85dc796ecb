"""The targets of `tests/fuzzing/guided.py` take inputs that are right or wrong, and tell a mistake of ours."""

import pytest

from tests.support.fuzz_targets import TARGETS, seeds


@pytest.mark.parametrize("kind", TARGETS)
def test_right_and_broken_inputs_pass(kind: str) -> None:
    for content in (*seeds(kind), seeds(kind)[0][:-40], b"", b"\0\xff", b"name: [x"):
        TARGETS[kind](content)


def test_an_error_that_is_no_line_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise KeyError(path)

    monkeypatch.setattr("mpcwdwm.data.read_dataset", broken)
    with pytest.raises(KeyError):
        TARGETS["hdf5"](seeds("hdf5")[0])
