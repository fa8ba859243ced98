"""Fill the sections of the README that are generated: ``python Testing/Benchmarks/readme.py`` renews the methods table.

A section lies between ``<!-- name:start -->`` and ``<!-- name:end -->``; the benchmark writes its own with ``write_section``.
"""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def write_section(name: str, markdown: str, readme: Path = README) -> None:
    """Replace what stands between the two markers of ``name``; raises ``ValueError`` when they are missing."""
    text = readme.read_text(encoding="utf-8")
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme} has no section between {start} and {end}")
    readme.write_text(f"{before}{start}\n{markdown.strip()}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    from DeepDiffRegLib.cli.methods import markdown

    write_section("methods", markdown())
