"""Names that may be one and the same, written in two ways: Pat1 and pat1, 7 and 007, 1,234 and 1234, dates of Excel."""

from __future__ import annotations

import re
import unicodedata
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"), "-")
LETTERS = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0430\u0435\u043e\u0440\u0441\u0443\u0445"
    "\u0456\u0458\u0455\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "ABEKMHOPCTYXaeopcyxijsABEZHIKMNOPTYXo",
)
"""Cyrillic and Greek letters that look like Latin ones."""
SPACE = re.compile(r"[\s_]+")
STARTS = " ;:'\"`([{#*_"
ENDS = " .,;:'\"`)]}*_"
INNER_MARK = re.compile(r"(?<=[^\W\d_])[-.](?=[^\W_])|(?<=\d)[-.](?=[^\W\d_])")  # not between two numbers
LEADING_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")
WHOLE_DECIMAL = re.compile(r"(?<![\d.,])(\d+)[.,](?!000(?!\d))0+(?![\d.,])")  # 1,000 may be a thousand
THOUSANDS = re.compile(r"(?<![\d.,'])(\d{1,3})(?:([.,'_ ])\d{3})(?:\2\d{3})*(?![\d.,'])")
SCIENTIFIC = re.compile(r"(\d)(?:[.,](\d+)e\+?|e\+)0*(\d{1,2})")
MONTHS = {
    name: month
    for month, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
MONTHS |= {"mai": 5, "okt": 10, "dez": 12, "m\u00e4r": 3, "mrz": 3}
YEAR_FIRST = re.compile(r"(\d{4})[-./](\d{1,2})[-./](\d{1,2})(?:[t -]+0?0:00(?::00(?:\.0+)?)?z?)?")
YEAR_LAST = re.compile(r"(\d{1,2})([-./])(\d{1,2})\2(\d{4}|\d{2})(?:[t -]+0?0:00(?::00(?:\.0+)?)?z?)?")
DAY_MONTH = re.compile(r"(\d{1,4})[-. /]*([a-z\u00e4]{3})[a-z]*(?:[-., /]*(\d{4}|\d{2}))?")
MONTH_DAY = re.compile(r"([a-z\u00e4]{3})[a-z]*[-., /]*(\d{1,4})(?:[-., /]+(\d{4}))?")
FIRST_SERIAL, LAST_SERIAL = 20_000, 60_000  # days since 1899-12-30, as Excel counts them: 1954 to 2064


def alike_groups(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names that look alike, together.

    Args:
        names: Names as they are kept: normalised, without spaces around them.

    Returns:
        Every set of two or more names that may stand for one, sorted.

    Example:
        >>> alike_groups(["Pat1", "pat1", "Pat2", "7", "007", "7.0"])
        [('007', '7', '7.0'), ('Pat1', 'pat1')]
    """
    names = sorted(set(names))
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(look(name), []).append(name)
    parent = {key: key for key in by_key}
    for key, same in by_key.items():
        for name in same:
            for other in _may_have_been(name, by_key):
                parent[_root(parent, key)] = _root(parent, other)
    together: dict[str, list[str]] = {}
    for key, same in by_key.items():
        together.setdefault(_root(parent, key), []).extend(same)
    return sorted(tuple(sorted(same)) for same in together.values() if len(same) > 1)


def one_of(alike: Sequence[str]) -> str:
    """Return the name that stands for names that look alike: the plainest, whatever the order and the counts."""
    return min(alike, key=lambda name: (not name.isascii(), len(name), name))


def closest_alike(name: str, names: Iterable[str]) -> str | None:
    """Return the one of some names that another name stands for: itself, or the only one that looks like it.

    Example:
        >>> closest_alike("1.0", ["0", "1"]), closest_alike("Tumour", ["normal", "tumour"])
        ('1', 'tumour')
    """
    known = list(names)
    if name in known:
        return name
    alike = [one for one in known if alike_groups((name, one))]
    return alike[0] if len(alike) == 1 else None


@lru_cache(maxsize=2**17)
def look(name: str) -> str:
    """Return what is left of a name without case, full-width forms, spaces, dashes, dots and leading zeros.

    Example:
        >>> look("Pat_007."), look("pat 7"), look("2.10"), look("HER2-")
        ('pat7', 'pat7', '2.10', 'her2-')
    """
    folded = _folded(name)
    found = _date(folded)
    if found is not None:
        return f"date {found}"
    text = LEADING_ZEROS.sub("", WHOLE_DECIMAL.sub(r"\1", folded))
    return INNER_MARK.sub("", text) or name


def _folded(name: str) -> str:
    """Return a name in small letters of the plainest form; between words one dash."""
    text = unicodedata.normalize("NFKC", name).translate(DASHES).translate(LETTERS).casefold()
    text = "".join(mark for mark in text if unicodedata.category(mark) != "Cf")
    return SPACE.sub("-", text.lstrip(STARTS).rstrip(ENDS))


def _root(parent: dict[str, str], key: str) -> str:
    while parent[key] != key:
        key = parent[key]
    return key


# ---- What a spreadsheet, or a person, made of it ----


def _may_have_been(name: str, by_key: dict[str, list[str]]) -> list[str]:
    """Return the looks among those there that a spreadsheet may have turned into this name."""
    folded = _folded(name)
    tried = {*_without_thousands(name), *_dates(folded), *_month_numbers(folded)}
    found = [key for key in tried if key in by_key]
    match = SCIENTIFIC.fullmatch(folded)
    return found + (_rounded_to(match, by_key) if match else [])


def _without_thousands(name: str) -> list[str]:
    """Return the looks of 1,234, 1.234, 1'234 and 1 234 without the mark, and of 7.000 without its zeros."""
    text = unicodedata.normalize("NFKC", name).replace("\u2019", "'")  # narrow and wide spaces are spaces there
    plain = THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    return [look(one) for one in (plain, text.removesuffix(".000")) if one and one != text]


def _rounded_to(match: re.Match[str], by_key: dict[str, list[str]]) -> list[str]:
    """Return the whole numbers that 1.23E+05 may be short for."""
    mantissa, exponent = Decimal(f"{match[1]}.{match[2] or 0}"), int(match[3])
    half = Decimal(5).scaleb(exponent - len(match[2] or "") - 1)
    least, most = mantissa.scaleb(exponent) - half, mantissa.scaleb(exponent) + half
    numbers = [key for key in by_key if key.isdecimal() and len(key) in (exponent + 1, exponent + 2)]
    return [key for key in numbers if least <= Decimal(key) <= most]


def _day(year: int, month: int, day: int) -> str | None:
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None


def _full(year: str) -> int:
    return int(year) if len(year) == 4 else 2000 + int(year) if int(year) < 70 else 1900 + int(year)


def _date(folded: str) -> str | None:
    """Return the day that a text names beyond doubt."""
    if match := YEAR_FIRST.fullmatch(folded):
        return _day(int(match[1]), int(match[2]), int(match[3]))
    if (match := YEAR_LAST.fullmatch(folded)) and match[2] == "." and len(match[4]) == 4:
        return _day(int(match[4]), int(match[3]), int(match[1]))
    if (match := DAY_MONTH.fullmatch(folded)) and match[3] and match[2] in MONTHS:
        return _day(_full(match[3]), MONTHS[match[2]], int(match[1]))
    if (match := MONTH_DAY.fullmatch(folded)) and match[3] and match[1] in MONTHS:
        return _day(int(match[3]), MONTHS[match[1]], int(match[2]))
    return None


def _dates(folded: str) -> list[str]:
    """Return the looks of the days that a text may name: 3/4/2021 names two, and Excel keeps days as numbers."""
    days: list[str | None] = []
    if match := YEAR_LAST.fullmatch(folded):
        first, second, year = int(match[1]), int(match[3]), _full(match[4])
        days += [_day(year, first, second), _day(year, second, first)]
    if folded.isascii() and folded.isdecimal():
        if len(folded) == 8:
            days.append(_day(int(folded[:4]), int(folded[4:6]), int(folded[6:])))
        elif len(folded) == 5 and FIRST_SERIAL <= int(folded) <= LAST_SERIAL:
            days.append((date(1899, 12, 30) + timedelta(int(folded))).isoformat())
    return [f"date {day}" for day in days if day is not None]


def _month_numbers(folded: str) -> list[str]:
    """Return the pairs of numbers that Excel shows as a day: 1-2 becomes 2-Jan or 1-Feb, and 2-21 Feb-21."""
    if (match := DAY_MONTH.fullmatch(folded)) and not match[3] and match[2] in MONTHS:
        month, number = MONTHS[match[2]], int(match[1])
    elif (match := MONTH_DAY.fullmatch(folded)) and not match[3] and match[1] in MONTHS:
        month, number = MONTHS[match[1]], int(match[2])
    else:
        return []
    return [f"{one}{mark}{two}" for one, two in ((month, number), (number, month)) for mark in "-/."]
