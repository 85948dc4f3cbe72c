"""What an HDF5 file holds itself: its links can lead, and its arrays lie, in other files.

A file from somebody else must not choose which files of this machine are read, so nothing outside
of it is opened, not even to see what is there.
"""

from dataclasses import dataclass
from typing import TypeAlias

import h5py

# More links that lead to links than anybody makes on purpose.
_MOST_LINKS = 16


@dataclass(frozen=True)
class Elsewhere:
    """Something whose content lies in another file.

    Attributes
    ----------
    file : str
        Name of that file, as the link or the array says it.
    """

    file: str

    @property
    def found(self) -> str:
        """What was found, for a message."""
        return f"a reference to another file, {self.file}, which is not read"

    @property
    def hint(self) -> str:
        """What to do about it."""
        return "Only the file that is given is read: copy the array into it."


Item: TypeAlias = h5py.Group | h5py.Dataset | h5py.Datatype | Elsewhere | None


def own_item(group: h5py.Group, name: str) -> Item:
    """Return what a name in a group stands for.

    Parameters
    ----------
    group : h5py.Group
        A group, or the open file.
    name : str
        A name in it, or a path.

    Returns
    -------
    Group, Dataset, Datatype, Elsewhere or None
        ``Elsewhere`` for what lies in another file; None for a link that leads nowhere or in a
        circle.

    Raises
    ------
    OSError, RuntimeError, KeyError
        Where the file is damaged.
    """
    return _followed(group, name, _MOST_LINKS)


def own_items(group: h5py.Group) -> dict[str, Item]:
    """Return everything right below a group, by name, as `own_item` does."""
    return {name: own_item(group, name) for name in group}


def _followed(group: h5py.Group, path: str, n_links: int) -> Item:
    item: Item = group.file["/"] if path.startswith("/") else group
    for name in path.split("/"):
        if name in ("", "."):
            continue
        if not isinstance(item, h5py.Group):
            return item if isinstance(item, Elsewhere) else None
        link = item.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return Elsewhere(link.filename)
        if isinstance(link, h5py.SoftLink):
            item = _followed(item, link.path, n_links - 1) if n_links else None
        else:
            item = None if link is None else item[name]
    return _stored_elsewhere(item) or item if isinstance(item, h5py.Dataset) else item


def _stored_elsewhere(dataset: h5py.Dataset) -> Elsewhere | None:
    """Tell where the values of a dataset lie, None where they are in its own file."""
    names = [name for name, _, _ in dataset.external or ()]
    if dataset.is_virtual:  # put together of parts of datasets; "." is its own file
        names += [s.file_name for s in dataset.virtual_sources() if s.file_name != "."]
    return Elsewhere(str(names[0])) if names else None
