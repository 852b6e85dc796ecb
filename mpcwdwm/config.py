"""Typed configuration: base class, types and fields of every config.

A config is declared beside the code it configures. Each field carries its unit, range and the paper's value. Nothing
is coerced silently (``"8"`` is not a number, ``true`` is not 1).
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass

from mpcwdwm.errors import UserError
from mpcwdwm.validation import first_finding

__all__ = ["Config", "Flag", "Int", "Real", "setting"]


def _integral(value: Any) -> Any:
    """Read 1e6, which YAML gives as a float, as the integer it denotes."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, Strict(), BeforeValidator(_integral)]
"""An integer; a float is accepted if it is a whole number, a string or a bool never."""
Real = Annotated[float, Strict()]
"""A finite float; an integer is accepted, a string or a bool never."""
Flag = Annotated[bool, Strict()]
"""A bool; 0, 1 and strings are refused."""


class _OneLine(ModelMetaclass):
    """Of configs: what is wrong with the arguments of a constructor is one line, a `UserError`.

    `model_validate` raises pydantic's error, whose places the YAML's reader needs. A constructor of the class itself
    would be called by `model_validate`, too.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except ValidationError as error:
            found = first_finding(error, lambda at: vars(cls)["__pydantic_fields__"] if not at else ())
            raise UserError(f"{cls.__name__}: {found.message}") from None


class Config(BaseModel, metaclass=_OneLine):
    """Base of every configuration: immutable, unknown keys refused, no infinities.

    Raises:
        UserError: in its constructor, an unknown field or an impossible value.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, populate_by_name=True
    )

    def to_dict(self) -> dict[str, Any]:
        """Return every field, defaults included, as plain JSON-serialisable values."""
        return self.model_dump(mode="json")


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    paper: Any = "unknown",
    alias: str | None = None,
    **constraints: Any,
) -> Any:
    """Declare a field: default, meaning, unit, the paper's value ("unknown" where it reports none).

    Args:
        default: our default; ``...`` where the user has to choose.
        doc: one line, what it is.
        unit: physical or counting unit, empty if none.
        paper: the value in the paper the code follows, whatever our default is.
        alias: a second accepted name (H, M, E).
        **constraints: pydantic's ``ge``, ``gt``, ``le``, ``lt``.
    """
    extra = {"unit": unit, "paper": paper}
    return Field(default, description=doc, alias=alias, json_schema_extra=extra, **constraints)
