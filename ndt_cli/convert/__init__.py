"""Any recording of the field to trials of binned counts.

``convert`` reads a file and returns a `Recording`; `ndt_cli.data.write.write_recording` saves
it. ``list_contents`` shows what an unknown file holds. ``bin_spikes``, ``chop`` and ``merge`` work
on arrays.

Axes in names: B trials, T bins, N neurons, V behavioral variables.
"""

from ndt_cli.convert.contents import Listing
from ndt_cli.convert.conversion import Converted, ConvertReport, convert, list_contents
from ndt_cli.convert.options import ConvertOptions
from ndt_cli.convert.spikes import bin_spikes
from ndt_cli.data.bins import chop, merge

__all__ = [
    "ConvertOptions",
    "ConvertReport",
    "Converted",
    "Listing",
    "bin_spikes",
    "chop",
    "convert",
    "list_contents",
    "merge",
]
