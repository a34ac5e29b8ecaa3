"""Where the rows of a source are, and the rows: files of one's own, data sets known by name, the hub."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from data.config import DataConfig
from data.errors import DataError
from data.sources.jsonl import Row, read_lines
from data.sources.named import CUT_SPLITS, FILES, PLAIN, SOURCES, Source
from data.sources.tables import read_hub, read_parquet


def locate(config: DataConfig) -> tuple[Path | str, str, Source]:
    """A file, a folder or a name on the hub; what to call it; and its data set: of a path, the plainest fields."""
    source, path = SOURCES.get(config.source), Path(config.source)
    if source is None and path.suffix in FILES:
        if config.held_out and config.split not in CUT_SPLITS:
            raise DataError(f"data.split: with data.held_out it is {', '.join(CUT_SPLITS)}, not {config.split!r}")
        return _there(path, "look at data.source"), path.stem, PLAIN
    if source is None and (path.is_dir() or config.source.count("/") == 1):
        return config.source, path.name, PLAIN
    if source is None:
        names = ["demo", *SOURCES]
        near = get_close_matches(config.source, names, n=1)
        kinds = f"it is {', '.join(names)}, the path of a .jsonl or .parquet file, or a name on the hub"
        hint = f"did you mean {near[0]!r}?" if near else kinds
        raise DataError(f"data.source: unknown source {config.source!r}; {hint}")
    known = source.splits or tuple(source.files)
    if config.split not in known:
        raise DataError(f"data.split: {config.source} has no split {config.split!r}, only {', '.join(known)}")
    if config.held_out and not source.held_out:
        raise DataError(f"data.held_out: {config.source} has splits of its own, {', '.join(known)}")
    if not source.hub:
        return _there(Path(config.root) / source.files[config.split], source.advice), config.source, source
    copies = [Path(config.root) / f"{config.source}_{config.split}{suffix}" for suffix in FILES]
    return next((path for path in copies if path.is_file()), source.hub), config.source, source


def _there(path: Path, advice: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {advice}")
    return path


def rows(
    where: Path | str, config: DataConfig, source: Source, start: int, count: int
) -> Iterator[tuple[int, str, Row | bytes]]:
    """Number from 0, place and content of each row; a line of a .jsonl file is not parsed yet."""
    if isinstance(where, Path) and where.suffix == ".jsonl":
        yield from ((n, f"{where}:{line}", text) for n, line, text in read_lines(where, start, count))
        return
    if isinstance(where, Path):
        found = read_parquet(where, start, count)
    else:
        found = read_hub(where, config.subset or source.subset, config.split, config.revision, start, count)
    yield from ((n, f"{where}, row {n}", row) for n, row in found)
