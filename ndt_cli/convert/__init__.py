"""Any recording of the field to trials of binned counts.

``convert`` reads a file and returns a `Recording`; `ndt_cli.data.write_own.write_recording` saves
it. ``list_contents`` shows what an unknown file holds. ``bin_spikes``, ``chop`` and ``merge`` work
on arrays.

Axes in names: B trials, T bins, N neurons, V behavioural variables.
"""

from ndt_cli.convert.choices import Choices
from ndt_cli.convert.convert import Converted, convert
from ndt_cli.convert.listing import Listing, list_contents
from ndt_cli.convert.report import ConvertReport
from ndt_cli.convert.spike_times import bin_spikes
from ndt_cli.data.chop import chop, merge

__all__ = [
    "Choices",
    "ConvertReport",
    "Converted",
    "Listing",
    "bin_spikes",
    "chop",
    "convert",
    "list_contents",
    "merge",
]
