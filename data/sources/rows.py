"""Where the rows of a run's sources are: files of one's own, data sets known by name, the hub."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from data.config import DataConfig
from data.errors import DataError
from data.sources.files import Rows, read_file, stem
from data.sources.jsonl import as_row
from data.sources.named import CUT_SPLITS, KINDS, PLAIN, SOURCES, SUFFIXES, Source, is_file_name
from data.sources.tables import read_hub


@dataclass(frozen=True)
class Located:
    """One source of a run."""

    where: Path | str
    """A file, or a folder or a name on the hub."""
    name: str
    """How the ids of its problems begin."""
    split: str
    """The split to read; of a source that is cut by story, the one that is cut."""
    source: Source
    """The fields of a known data set; the plainest ones of any other."""
    held_out: float = 0.0
    """Share that is held out by story; 0: the source is not cut."""


def locate(config: DataConfig) -> list[Located]:
    """The sources that `config` names, in its order, each with a name of its own.

    Raises:
        DataError: a source, its split or its file does not exist, or it stands there twice.
    """
    found = [_locate(config, name) for name in config.sources]
    places = Counter(str(one.where) for one in found)
    for place, count in places.items():
        if count > 1:
            raise DataError(f"data.source: {place} stands there twice")
    names = Counter(one.name for one in found)
    return [
        one
        if names[one.name] == 1
        else Located(one.where, str(one.where).replace("\\", "/"), one.split, one.source, one.held_out)
        for one in found
    ]


def _locate(config: DataConfig, name: str) -> Located:
    source, path = SOURCES.get(name), Path(name).expanduser()
    if source is None and is_file_name(name):
        if not config.split:
            raise DataError(
                f"{path}: which problems are held out? Cut it by story with data.held_out=0.1, name another file with "
                "eval.data.source=FILE, or train without an evaluation: eval.at_end=false"
            )
        _check_cut(config)
        return Located(_there(path, "look at data.source"), stem(path), config.split, PLAIN, _share(config))
    if source is None and (path.is_dir() or name.count("/") == 1):
        _check_cut(config)
        split = "train" if config.held_out else config.split
        return Located(str(path) if path.is_dir() else name, path.name, split, PLAIN, _share(config))
    if source is None:
        raise DataError(_unknown(name))
    known = source.splits or tuple(source.files)
    cut_here = config.held_out and "test" not in known  # one split alone, cut as a file is
    if cut_here:
        _check_cut(config)
    elif config.split not in known:
        more = "" if "test" in known else "; data.held_out=0.1 cuts it by story into train and test"
        raise DataError(f"data.split: {name} has no split {config.split!r}, only {', '.join(known)}{more}")
    elif config.held_out and not source.held_out:
        raise DataError(f"data.held_out: {name} has splits of its own, {', '.join(known)}")
    split = "train" if cut_here else config.split
    share = _share(config) or (source.held_out if config.split != "all" else 0.0)
    if not source.hub:
        return Located(_there(Path(config.root) / source.files[split], source.advice), name, split, source, share)
    copies = [Path(config.root) / f"{name}_{split}{suffix}" for suffix in SUFFIXES]
    copy = next((path for path in copies if path.is_file()), source.hub)
    return Located(copy, name, split, source, share)


def rows(one: Located, config: DataConfig, start: int, count: int) -> Rows:
    """Number from 0, place and content of each row of a source; the content is a function that reads it."""
    if isinstance(one.where, Path):
        yield from read_file(one.where, one.split, start, count)
        return
    subset = config.subset or one.source.subset
    found = read_hub(one.where, subset, one.split, config.revision, start, count)
    yield from ((n, f"{one.where}, row {n}", partial(as_row, row)) for n, row in found)


def _share(config: DataConfig) -> float:
    return 0.0 if config.split == "all" else config.held_out


def _check_cut(config: DataConfig) -> None:
    if config.held_out and config.split not in CUT_SPLITS:
        raise DataError(f"data.split: with data.held_out it is {', '.join(CUT_SPLITS)}, not {config.split!r}")


def _there(path: Path, advice: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {advice}")
    return path


def _unknown(name: str) -> str:
    names = ["demo", *SOURCES]
    near = get_close_matches(name, names, n=1)
    kinds = f"the path of a {', '.join(KINDS)} file (all but the last also with .gz), or a name on the hub"
    return f"data.source: unknown source {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"it is {', '.join(names)}, {kinds}"
    )
