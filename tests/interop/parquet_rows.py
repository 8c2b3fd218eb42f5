"""A Parquet file as pandas and datasets write them, and what its rows are as JSON."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq

import reference


def make(out):
    """A Parquet file of pyarrow with every kind of column that datasets have, and its rows as JSON."""
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    columns = {
        "messages": (pa.list_(message), [
            [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo \u00e9"}],
            [{"role": "user", "content": None}],
            [],
            None,
        ]),
        "large": (pa.large_list(pa.large_string()), [["a", None], [], None, ["b"]]),
        "nested": (pa.list_(pa.list_(pa.int32())), [[[1, 2], []], None, [[3]], []]),
        "n": (pa.int64(), [7, None, -1, 2**53]),
        "u": (pa.uint32(), [7, None, 1, 2**32 - 1]),
        "small": (pa.int8(), [7, None, -1, 2]),
        "f": (pa.float32(), [0.1, None, -1.5, 2.0]),
        "x": (pa.float64(), [0.5, None, float("nan"), 0.1]),
        "ok": (pa.bool_(), [True, False, None, True]),
        "tag": (pa.dictionary(pa.int32(), pa.string()), ["b", "a", None, "b"]),
        "raw": (pa.binary(), [b"abc", None, b"", b"x"]),
        "scores": (pa.map_(pa.string(), pa.int64()), [[("a", 1)], None, [], [("b", 2), ("c", None)]]),
        "day": (pa.date32(), [datetime.date(2024, 2, 29), None, None, None]),
        "price": (pa.decimal128(9, 2), [decimal.Decimal("1.50"), None, None, None]),
        "nothing": (pa.null(), [None] * 4),
    }
    table = pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})
    out.mkdir(parents=True)
    pq.write_table(table, out / "pyarrow.parquet", compression="zstd", row_group_size=3)
    # pandas and datasets write such files; what hone reads from them is what pyarrow says, in JSON's words.
    rows = table.to_pylist()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, bytes):
                row[name] = {"bytes": len(value)}
            elif isinstance(value, float) and value != value:
                row[name] = "NaN"
            elif name == "f" and value is not None:
                row[name] = float(str(round(value, 6)))
            elif name == "scores" and value is not None:
                row[name] = dict(value)
            elif name == "messages" and value is not None:
                row[name] = [{key: text for key, text in message.items() if text is not None} for message in value]
            elif name in ("day", "price") and value is not None:
                row[name] = str(value)
    reference.write_json(out / "pyarrow.json", rows)
    # The second day is in no calendar: its year has seven digits.
    days = pa.array([19782, 2**31 - 1, 0], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": ["a", "b", "c"], "day": days}), out / "days.parquet")
