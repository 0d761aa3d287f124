"""A file's bytes as text and back: charset, byte order mark, line ends, final newline stay what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.errors import InvalidRequest, NotAFile
from protocol.messages.files import Charset
from toolserver.tools.text import charset_of, lines_of

_MARK = "\ufeff"
CRLF = "\r\n"


@dataclass(frozen=True)
class Document:
    """Text without its byte order mark, and how it stands in bytes."""

    text: str
    charset: Charset = Charset.UTF8
    mark: str = ""

    def encoded(self, path: str) -> bytes:
        """The bytes; raises InvalidRequest for a character that the file's charset lacks."""
        try:
            return (self.mark + self.text).encode(self.charset.value)
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{path!r} is {self.charset.value}, which has no {self.text[error.start]!r}; "
                "leave that character out, or write the file whole with another charset",
                field="newText",
                path=path,
            ) from None

    def with_text(self, text: str) -> Document:
        """The same file with another text."""
        return replace(self, text=text)

    @property
    def ending(self) -> str:
        """What ends the file's lines, most of them at least."""
        return ending_of(self.text)


def document_of(path: str, data: bytes) -> Document:
    r"""The file's text; raises NotAFile when it is none.

    >>> document_of("a", b"\xef\xbb\xbfa\r\n")
    Document(text='a\r\n', charset=<Charset.UTF8: 'utf-8'>, mark='\ufeff')
    """
    charset = charset_of(data)
    if charset is None:
        raise NotAFile(f"{path!r} is not text; replace it whole with 'write'", path=path)
    text = data.decode(charset.value)
    mark = _MARK if text.startswith(_MARK) else ""
    return Document(text.removeprefix(mark), charset, mark)


def unmarked(text: str) -> str:
    """A caller's text without the mark that an answer of ``read`` may have begun with."""
    return text.removeprefix(_MARK)


def ending_of(text: str) -> str:
    r"""The line end that is used most, a line feed when there is none.

    >>> ending_of("a\r\nb\r\nc\n"), ending_of("a")
    ('\r\n', '\n')
    """
    crlf = text.count(CRLF)
    return CRLF if crlf * 2 > text.count("\n") else "\n"


def is_crlf_only(text: str) -> bool:
    r"""Whether all of its lines, and there is one, end in CRLF.

    >>> is_crlf_only("a\r\nb"), is_crlf_only("a\r\nb\n"), is_crlf_only("a")
    (True, False, False)
    """
    crlf = text.count(CRLF)
    return 0 < crlf == text.count("\n")


def with_ending(text: str, ending: str) -> str:
    r"""All line ends made the same.

    >>> with_ending("a\nb\r\n", "\r\n")
    'a\r\nb\r\n'
    """
    plain = text.replace(CRLF, "\n")
    return plain if ending == "\n" else plain.replace("\n", ending)


def bare(line: str) -> str:
    r"""A line without its end.

    >>> bare("a\r\n"), bare("a\r"), bare("a\n")
    ('a', 'a\r', 'a')
    """
    return line.removesuffix(CRLF) if line.endswith(CRLF) else line.removesuffix("\n")


def tidied(lines: list[str], ending: str, *, has_final_end: bool | None) -> str:
    r"""Lines as text: each but the last has an end, the last as told; None leaves the last as it is.

    >>> tidied(["a", "b\n"], "\n", has_final_end=False)
    'a\nb'
    """
    parts = [line if line.endswith("\n") else line + ending for line in lines[:-1]]
    if lines:
        last = lines[-1]
        if has_final_end is not None:
            last = bare(last) + (_end(last) or ending if has_final_end else "")
        parts.append(last)
    return "".join(parts)


def _end(line: str) -> str:
    return line[len(bare(line)) :]


def has_final_end(text: str) -> bool:
    """Whether the last line has an end; an empty text is taken to."""
    return not text or text.endswith("\n")


__all__ = [
    "CRLF",
    "Document",
    "bare",
    "document_of",
    "ending_of",
    "has_final_end",
    "is_crlf_only",
    "lines_of",
    "tidied",
    "unmarked",
    "with_ending",
]
