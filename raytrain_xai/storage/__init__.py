"""Folders on a local disk or on S3 behind one small set of functions.

Everything the package stores (data sets, runs, checkpoints) goes through here, so that a local folder and an
``s3://`` address differ in nothing else. How servers, regions and credentials of S3 are named is said in
:mod:`raytrain_xai.storage.address`, what is tried again and for how long in :mod:`raytrain_xai.storage.patience`.
"""

from raytrain_xai.storage.files import (
    Stamp,
    exists,
    open_file,
    read_bytes,
    read_many,
    stamp_of,
    which_exist,
    write_bytes,
    write_files,
)
from raytrain_xai.storage.folders import delete_tree, list_names, list_sizes, list_tree, rename_folder, unfinished
from raytrain_xai.storage.location import Location, locate

__all__ = [
    "Location",
    "Stamp",
    "delete_tree",
    "exists",
    "list_names",
    "list_sizes",
    "list_tree",
    "locate",
    "open_file",
    "read_bytes",
    "read_many",
    "rename_folder",
    "stamp_of",
    "unfinished",
    "which_exist",
    "write_bytes",
    "write_files",
]
