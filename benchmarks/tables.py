"""Write the tables of README.md and docs/performance.md from the records in results/.

    python benchmarks/tables.py

A table stands between `<!-- table: KIND RECORD... -->` and `<!-- end of table -->`, and is what `TABLES[KIND]` makes of
the records; a test holds the pages to it.
"""

import json
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/performance.md")
MARKED = re.compile(r"(<!-- table: (\S+) (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)
NAMES = {
    "xla": "with XLA's own convolutions",
    "reference": "in plain JAX",
    "covariance": "with covariances",
    "flax": "Flax example",
}
DIRECTIONS = {"forward": "forward", "input_gradient": "input gradient", "kernel_gradient": "kernel gradient"}


def table(header: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """Return a Markdown table whose first columns are text and whose others are numbers; empty columns are left out."""
    columns = [column for column in range(len(header)) if any(row[column] for row in rows)]
    header, *rows = ([row[column] for column in columns] for row in (header, *rows))
    rules = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rules, *rows))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with about so many digits, or nothing for None."""
    if value is None:
        return ""
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - len(str(int(value))) if value >= 1 else digits - 1)}f}"


def steps(record: dict) -> str:
    """Images a second of each contestant, ours to torch's, and ours in shares of the machine's peaks."""
    found = dict.fromkeys(name for row in record["rows"] for name in row["images_per_second"])
    compiled = " (compiled)" if record["compiled_torch"] else ""
    measured = {  # of a field of the row
        "ours to torch": ("ratio_to_torch", lambda ratios: number(ratios["ours"])),
        "of peak FLOPs": ("share_of_peak_flops", "{:.0%}".format),
        "MB an image": ("memory_bytes_an_image", lambda moved: number(moved / 1e6)),
        "of peak bandwidth": ("share_of_peak_bandwidth", "{:.0%}".format),
        "GB held": ("program_memory_bytes", lambda held: number(held / 1e9)),
    }
    rows = []
    for row in record["rows"]:
        speeds = (number(row["images_per_second"].get(name)) for name in found)
        shown = (form(row[field]) if field in row else "" for field, form in measured.values())
        rows.append([f"{row['network']}, {row['image']} px", str(row["batch"]), *speeds, *shown])
    titles = [NAMES.get(name, name) + (compiled if name == "torch" else "") for name in found]
    return table(["network", "batch", *titles, *measured], rows)


def convolutions(record: dict) -> str:
    """Milliseconds of each lowering, the fastest in bold; nothing where it was too slow, or no other program."""
    names = dict.fromkeys(name for row in record["rows"] for name in row["milliseconds"])
    rows = []
    for row in record["rows"]:
        times = row["milliseconds"]
        shown = {name: f"{times[name]:.2f}" for name in times}
        if shown:
            fastest = min(times, key=times.get)
            shown[fastest] = f"**{shown[fastest]}**"
        rows.append([row["shape"], DIRECTIONS[row["direction"]], *(shown.get(name, "") for name in names)])
    return table(["convolution", "direction", *names], rows, 2)


def accelerators(record: dict) -> str:
    """What is counted of compiled steps."""
    rows = []
    for row in record["rows"]:
        implementation = row.get("implementation", row.get("lowering"))  # "lowering" in records until 2026-11-27
        how = "" if implementation in ("auto", "fast") else f", by {implementation}"
        sent = row["collectives"].get("all-reduce")
        rows.append(
            [
                f"{row['network']}{how}",
                f"{row['chips']} of {row['topology']}",
                f"{row['memory_megabytes_an_image']:.1f}",
                *(
                    f"{row[key]:.1f}" if key in row else ""
                    for key in ("megabytes_accessed_an_image", "gigaflops_an_image")
                ),
                f"{row['memory_gib']:.1f}",
                f"{sent['count']}, {sent['megabytes']:.0f} MB" if sent else "",
            ]
        )
    header = [
        "network",
        "chips",
        "MB an image through memory",
        "MB accessed",
        "GFLOP",
        "GiB held",
        "all-reduces a step",
    ]
    return table(header, rows, 2)


def startup(record: dict) -> str:
    """Seconds of the parts of a start, of the clock."""
    parts = ("trace", "lower", "compile_or_load", "step")
    rows = []
    for row in record["rows"]:
        seconds = {part: clock for part, (clock, _) in row["seconds"].items()}
        name, batch, size, *wider = row["network"].split(":")
        named = f"{name}{f', {wider[0]} times as wide' if wider else ''}, {batch} images of {size} px"
        first = sum(seconds[part] for part in parts)
        shown = (seconds["variables"], first, *(seconds[part] for part in parts))
        rows.append([named, "filled" if row["cache"] else "empty", *(f"{each:.1f}" for each in shown)])
    header = ["network", "cache", "variables", "first step", "of it: trace", "lower", "compile or load", "run"]
    return table(header, rows, 2)


def scaling(record: dict) -> str:
    """Collectives by devices and BatchNorm scope."""
    rows = []
    for row in record["rows"]:
        sent = row["collectives"].get("all-reduce", {"count": 0, "megabytes": 0.0})
        rows.append([str(row["devices"]), row["norm_scope"], str(sent["count"]), f"{sent['megabytes']:.3f}"])
    return table(["devices", "BatchNorm", "all-reduces", "MB"], rows, 2)


def together(record: dict) -> str:
    """Images a second of runs at once."""
    rows = [
        [name, number(sum(each)), number(statistics.mean(each))] for name, each in record["images_per_second"].items()
    ]
    return table(["runs", "images a second, all", "each"], rows)


def speeds(*records: dict) -> str:
    """Of some step records, our images a second beside torch's and the Flax example's, and on what machine."""
    rows = []
    for record in records:
        machine = record["machine"]
        device = machine["devices"][0]
        where = machine["processor"] if device == "cpu" else device
        how = f"{record['mode']}, {record['dtype']}"
        for row in record["rows"]:
            seen, named = row["images_per_second"], f"{row['network']}, batch {row['batch']}"
            rows.append([named, how, where, *(number(seen.get(name)) for name in ("ours", "torch", "flax"))])
    return table(["network", "step", "where", "ours", "torch", "Flax example"], rows, 3)


TABLES = {
    "steps": steps,
    "convolutions": convolutions,
    "accelerators": accelerators,
    "startup": startup,
    "scaling": scaling,
    "together": together,
    "speeds": speeds,
}


def written(text: str) -> str:
    """Return a page with its tables written again. Raises SystemExit for an unknown table or record."""

    def made(found: re.Match) -> str:
        begin, kind, files, end = found.groups()
        if kind not in TABLES:
            raise SystemExit(f"there is no table {kind!r}: use one of {', '.join(TABLES)}.")
        records = []
        for file in files.split():
            if not (ROOT / file).exists():
                raise SystemExit(f"there is no record {file}: its benchmark writes it.")
            records.append(json.loads((ROOT / file).read_text()))
        return f"{begin}\n{TABLES[kind](*records)}\n{end}"

    return MARKED.sub(made, text)


def main() -> None:
    """Write both pages."""
    for page in PAGES:
        file = ROOT / page
        before = file.read_text()
        after = written(before)
        if after != before:
            file.write_text(after)
            print(f"{page} is written.")


if __name__ == "__main__":
    sys.exit(main())
