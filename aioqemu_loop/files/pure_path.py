"""The half of files.Path that only looks at the letters of a path."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import StrPath
    from typing_extensions import Self


def plain(other: Any) -> Any:
    """pathlib's path in place of ours, to compare with."""
    return other._path if isinstance(other, PurePath) else other


class PurePath:
    """Wraps a pathlib.Path, whose answers these are. Compares with pathlib's, too."""

    __slots__ = ("__weakref__", "_path")

    def __init__(self, *args: StrPath) -> None:
        self._path = pathlib.Path(*args)

    def __fspath__(self) -> str:
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def __bytes__(self) -> bytes:
        return bytes(self._path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_posix()!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (str(self._path),)

    def __hash__(self) -> int:
        return hash(self._path)

    def __eq__(self, other: object) -> bool:
        return self._path.__eq__(plain(other))

    def __lt__(self, other: Any) -> bool:
        return self._path.__lt__(plain(other))

    def __le__(self, other: Any) -> bool:
        return self._path.__le__(plain(other))

    def __gt__(self, other: Any) -> bool:
        return self._path.__gt__(plain(other))

    def __ge__(self, other: Any) -> bool:
        return self._path.__ge__(plain(other))

    def __truediv__(self, other: StrPath) -> Self:
        try:
            return type(self)(self._path, other)
        except TypeError:
            return NotImplemented

    def __rtruediv__(self, other: StrPath) -> Self:
        try:
            return type(self)(other, self._path)
        except TypeError:
            return NotImplemented

    @property
    def parts(self) -> tuple[str, ...]:
        return self._path.parts

    @property
    def drive(self) -> str:
        return self._path.drive

    @property
    def root(self) -> str:
        return self._path.root

    @property
    def anchor(self) -> str:
        return self._path.anchor

    @property
    def parent(self) -> Self:
        return type(self)(self._path.parent)

    @property
    def parents(self) -> Sequence[Self]:
        return tuple(type(self)(path) for path in self._path.parents)

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def suffix(self) -> str:
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._path.suffixes

    @property
    def stem(self) -> str:
        return self._path.stem

    def as_posix(self) -> str:
        return self._path.as_posix()

    def as_uri(self) -> str:
        """A file: URI. ValueError if the path is not absolute."""
        return self._path.as_uri()

    def is_absolute(self) -> bool:
        return self._path.is_absolute()

    def is_relative_to(self, *other: StrPath) -> bool:
        """Whether it is below the other path."""
        try:
            self._path.relative_to(pathlib.Path(*other))
        except ValueError:
            return False
        return True

    def relative_to(self, *other: StrPath, **options: Any) -> Self:
        """The way from the other path to it. ValueError if it is not below.

        From Python 3.12 on `walk_up=True` allows `..`.
        """
        return type(self)(self._path.relative_to(pathlib.Path(*other), **options))

    def match(self, path_pattern: str, **options: Any) -> bool:
        """Whether its end matches the pattern; from Python 3.12 on with `case_sensitive`."""
        return self._path.match(path_pattern, **options)

    def joinpath(self, *args: StrPath) -> Self:
        return type(self)(self._path, *args)

    def with_name(self, name: str) -> Self:
        return type(self)(self._path.with_name(name))

    def with_stem(self, stem: str) -> Self:
        return type(self)(self._path.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        return type(self)(self._path.with_suffix(suffix))

    def with_segments(self, *pathsegments: StrPath) -> Self:
        return type(self)(*pathsegments)

    if sys.version_info < (3, 15):

        def is_reserved(self) -> bool:
            """False: no name is, on Linux."""
            return False

    if sys.version_info >= (3, 13):
        parser = pathlib.Path.parser

        @classmethod
        def from_uri(cls, uri: str) -> Self:
            """The path of a file: URI."""
            return cls(pathlib.Path.from_uri(uri))

        def full_match(self, pattern: StrPath, **options: Any) -> bool:
            """Whether all of it matches the pattern, in which ** stands for any directories."""
            return self._path.full_match(os.fspath(pattern), **options)

    if sys.version_info >= (3, 14):

        @property
        def info(self) -> Any:
            """pathlib.types.PathInfo: what it is. Its methods block where they have not asked yet."""
            return self._path.info
