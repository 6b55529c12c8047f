"""Licences of the catalog, read as answers; an entry gives the place where its own copy stands."""

from histotune.backbones.entry import Licence


def apache(source: str) -> Licence:
    """Return the Apache License 2.0: everything, with notice."""
    return Licence("Apache-2.0", True, True, True, False, source)


def apache_gated(source: str) -> Licence:
    """Return Apache-2.0 behind a form: the licence is Apache's, access is granted to those who agree to its terms."""
    return Licence("Apache-2.0 (gated)", True, True, True, False, source)


def mit(source: str) -> Licence:
    """Return the MIT licence: everything, with notice."""
    return Licence("MIT", True, True, True, False, source)


def bsd3(source: str) -> Licence:
    """Return the 3-clause BSD licence: everything, with notice."""
    return Licence("BSD-3-Clause", True, True, True, False, source)


def academic_gated(source: str) -> Licence:
    """Return CC-BY-NC-ND 4.0 with the terms that gated pathology models add to it.

    No commercial use, no copy of the model may be passed on, no derivatives, and models trained on its outputs or
    data sets made from it count as derivatives.
    """
    return Licence("CC-BY-NC-ND-4.0 (gated)", False, False, False, True, source)


def no_derivatives(source: str) -> Licence:
    """Return CC-BY-NC-ND 4.0 where the added terms were not read: outputs and sharing are left open."""
    return Licence("CC-BY-NC-ND-4.0 (gated)", False, None, False, None, source)


def non_commercial(name: str, source: str, *, outputs_restricted: bool) -> Licence:
    """Return a share-alike licence for non-commercial use."""
    return Licence(name, False, True, True, outputs_restricted, source)
