"""Archives on this machine: a packed stream into a directory, a directory into a packed stream.

Both are driven by whoever holds the other end, one call at a time and from any thread: ``Extraction.feed``
takes the next bytes, ``next(Packing)`` gives them. Neither keeps the archive, in memory or on the disk.
"""

from toolserver.system.tarballs.extraction import Extracted, Extraction
from toolserver.system.tarballs.packing import FIXED_TIME, Base, Packed, Packing

__all__ = ["FIXED_TIME", "Base", "Extracted", "Extraction", "Packed", "Packing"]
