"""What reader tests read, and how."""

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import EXCERPT, Document, Rejected
from jaxllm.data.prepare.readers import find_files, read


def items(paths, **fields) -> list[Document | Rejected]:
    """Everything that comes out of the files."""
    config = InputConfig(paths=tuple(str(path) for path in paths), **fields)
    found = [item for file in find_files(config) for item in read(file, config)]
    for item in found:
        if isinstance(item, Rejected):
            item.excerpt.encode()
            assert len(item.excerpt) <= EXCERPT
        else:
            item.text.encode()
            item.source.encode()
    return found


def texts(paths, **fields) -> list[str]:
    """The texts of files in which nothing is bad."""
    found = items(paths, **fields)
    assert not [item for item in found if isinstance(item, Rejected)]
    return [item.text for item in found]


def outline(paths, **fields) -> list[tuple[str, str]]:
    """Number and text of documents, and number and <reason> of what is rejected."""
    return [
        (item.id.rpartition(":")[2] if ":" in item.id else "file",
         f"<{item.reason}>" if isinstance(item, Rejected) else item.text)
        for item in items(paths, **fields)
    ]


def write(file, content):
    """A file of these bytes, or of this text."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file
