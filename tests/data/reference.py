"""Plain Python for what the package does with numpy and Grain, written from the documentation."""

import struct
from pathlib import Path

from array_record.python import array_record_module


def read_stream(folder: Path, split: str) -> tuple[list[int], list[bool]]:
    """All tokens of a split and whether each begins a document, from the bytes of its shards."""
    tokens, starts = [], []
    for file in sorted(folder.glob(f"{split}-*.array_record")):
        reader = array_record_module.ArrayRecordReader(str(file))
        for number in range(reader.num_records()):
            record = reader.read([number])[0]
            magic, version, width, count, begins = struct.unpack("<4sHHII", record[:16])
            assert (magic, version) == (b"JLTB", 1)
            places = set(struct.unpack(f"<{begins}I", record[16 : 16 + 4 * begins]))
            letters = {2: "H", 4: "I"}[width]
            tokens += struct.unpack(f"<{count}{letters}", record[16 + 4 * begins :])
            starts += [place in places for place in range(count)]
    return tokens, starts


def causal(tokens: list[int], starts: list[bool], length: int) -> dict[str, list]:
    """The example of a window, token by token."""
    row = {name: [] for name in ("inputs", "targets", "weights", "positions", "segment_ids")}
    segment, position = 0, 0
    for place in range(length):
        if place + 1 >= len(tokens):
            for values in row.values():
                values.append(0)
            continue
        if place == 0 or starts[place]:
            segment, position = segment + 1, 0
        row["inputs"].append(tokens[place])
        row["targets"].append(tokens[place + 1])
        row["weights"].append(0 if starts[place + 1] else 1)
        row["positions"].append(position)
        row["segment_ids"].append(segment)
        position += 1
    return row
