"""Labels that are text, kept as numbers, so that memory does not grow with how long and how many they are."""

from __future__ import annotations

from cake_cli.errors import DataError

_MOST = 1 << 16
"""Different labels."""

_LONGEST = 1000
"""Characters of a label."""


class DistinctTexts:
    """The different texts of a column of labels, numbered as they come.

    Args:
        name: what messages call the labels.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """All of them, in the order of their numbers."""
        return list(self._numbers)

    def number(self, text: str) -> int:
        """The number of a text, a new one where it is new.

        Raises:
            DataError: if the text is too long for a name, or there are too many.
        """
        known = self._numbers.get(text)
        if known is not None:
            return known
        if len(text) > _LONGEST or len(self._numbers) == _MOST:
            found = (
                f"one of {len(text):,} characters" if len(text) > _LONGEST else f"more than {_MOST:,} different ones"
            )
            raise DataError(
                f"the labels of {self._name} are no names of classes: there is {found}",
                "--label-column with the column of labels",
            )
        return self._numbers.setdefault(text, len(self._numbers))
