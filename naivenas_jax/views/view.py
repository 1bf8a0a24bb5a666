"""What there is to see of a value: tables, pictures and lines of text, before anybody decides how they are rendered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import TypeAlias


@dataclass(frozen=True)
class Words:
    """Lines of text.

    Attributes:
      lines: the lines.
      heading: whether they are a heading.
    """

    lines: tuple[str, ...]
    heading: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
      columns: the heads of the columns.
      rows: a tuple of cells for each row.
      numbers: the columns that hold numbers, which are aligned to the right.
      title: what it shows.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    title: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture, and what stands for it where there are no pictures.

    Attributes:
      svg: makes the text of an SVG image, when it is wanted.
      instead: what text alone shows.
    """

    svg: Callable[[], str]
    instead: Table | Words | None = None


Part: TypeAlias = Words | Table | Picture
View: TypeAlias = tuple[Part, ...]


@singledispatch
def view(value: object) -> View:
    """What there is to see of a value. Each kind of value says so where it is known: ``@view.register``.

    Args:
      value: any value.

    >>> view(3)
    (Words(lines=('3',), heading=False),)
    """
    return (Words((repr(value),)),)
