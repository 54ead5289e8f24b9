"""Everything rtlit raises on purpose.

    RtlitError            exit code 1
    ├── UsageError        a setting or option has a value that can't be used (exit code 2)
    ├── InputError        a file or picture can't be read, or holds nothing to enhance
    ├── OutputError       a result can't be written
    ├── WeightsError      a weights file is missing, damaged or for another network
    ├── DeviceError       the requested device isn't there or gave up
    └── Interrupted       by Ctrl-C or SIGTERM, after saving what can be gone on with (exit code 130)

A message is one line that names the thing, says what is wrong and what to do.
"""

from __future__ import annotations


class RtlitError(Exception):
    """Base of the tree. `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(RtlitError, ValueError):
    """A setting or option has a value that can't be used."""

    exit_code = 2


class InputError(RtlitError):
    """A file or picture can't be read, or holds nothing to enhance."""


class OutputError(RtlitError):
    """A result can't be written."""


class WeightsError(RtlitError):
    """A weights file is missing, damaged or made for another network."""


class DeviceError(RtlitError):
    """The requested device isn't there or gave up."""


class Interrupted(RtlitError):
    """By Ctrl-C or SIGTERM, after saving what can be gone on with."""

    exit_code = 130
