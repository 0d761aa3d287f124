"""The tar format, both ways, without a file or a socket.

Bytes in, events out: ``Decoder.feed`` answers with the members and contents that those bytes complete.
Members in, bytes out: ``pack`` asks each content for its bytes when their turn comes. Read: ustar, GNU (long
names, base-256 numbers), PAX. Written: ustar, and PAX where ustar cannot say it. What a member may be called,
and where it may lead, is no matter of the format: see ``protocol.archives``.
"""

from protocol.tar.decoder import END, Decoder, Event
from protocol.tar.encoder import pack
from protocol.tar.header import BLOCK_BYTES, Kind, Member, is_header, shown

__all__ = ["BLOCK_BYTES", "END", "Decoder", "Event", "Kind", "Member", "is_header", "pack", "shown"]
