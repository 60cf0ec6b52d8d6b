"""The part of the model card that is measured: written between two marks, never by hand."""

from pathlib import Path
from typing import Any

BEGIN = "<!-- figures: written by starter.evaluate -->"
END = "<!-- end of figures -->"
FACTS = ("background", "colour", "shape", "palette", "style")


def rewrite(path: Path, figures: dict[str, Any]) -> None:
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}", "utf-8")


def table(figures: dict[str, Any]) -> str:
    lines = [
        "| model | pictures | " + " | ".join(f"{fact}, %" for fact in FACTS) + " |",
        "|---" * (len(FACTS) + 2) + "|",
    ]
    for name, row in figures.items():
        if "pictures" in row:
            cells = [name, row["pictures"], *(row[fact] for fact in FACTS)]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    seconds = figures.get("seconds a picture", {})
    if seconds:
        lines += ["", "| one 64 by 64 picture, 20 steps, guidance | seconds |", "|---|---|"]
        lines += [f"| {label} | {value} |" for label, value in seconds.items()]
    return "\n".join(lines)
