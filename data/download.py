"""Fetch the public data sets from their official sources: `make data`, or

    python -m data.download [gsm8k] [math] [--root datasets]

GSM8K alone by default. Each file is pinned: its commit in the address, its size and SHA-256 in the table.
It is written under a temporary name and takes its own only when every byte is right: what is there is whole.
SVAMP is not fetched: its official file is one JSON array, and the JSON Lines form has no official checksum.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from data.errors import DataError

TIMEOUT_SECONDS = 30
"""How long one connection or one read may take."""

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Download:
    """One file, pinned."""

    host: str
    path: str
    size: int
    """Bytes."""
    sha256: str


GSM8K = "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
MATH = "media/openai/prm800k/00811d6de065642a6967b9017d4cee59550c0ef4/prm800k/math_splits"

DOWNLOADS = {
    "gsm8k": {
        "gsm8k_train.jsonl": Download(
            host="https://raw.githubusercontent.com",
            path=f"{GSM8K}/train.jsonl",
            size=4166206,
            sha256="17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        ),
        "gsm8k_test.jsonl": Download(
            host="https://raw.githubusercontent.com",
            path=f"{GSM8K}/test.jsonl",
            size=749738,
            sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        ),
    },
    # Kept in Git LFS; the size and SHA-256 are those of the pointer files at the pinned commit.
    "math": {
        "math_train.jsonl": Download(
            host="https://media.githubusercontent.com",
            path=f"{MATH}/train.jsonl",
            size=10896985,
            sha256="90d96daeac3fe343ebb1e22ce93dd99690f75983e957f88de42f87cffe1e8076",
        ),
        "math500_test.jsonl": Download(
            host="https://media.githubusercontent.com",
            path=f"{MATH}/test.jsonl",
            size=446564,
            sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
        ),
    },
}
"""Data set -> file name -> where it is and what it must be."""


def main(argv: list[str] | None = None, downloads: dict[str, dict[str, Download]] = DOWNLOADS) -> int:
    """The command line; returns the exit code (2 after an error of one line)."""
    parser = argparse.ArgumentParser(prog="python -m data.download", description="Fetch the public data sets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(downloads)} (gsm8k)")
    parser.add_argument("--root", default=os.environ.get("GRPO_DATA") or "datasets", help="folder to write to")
    parser.add_argument("--base-url", default="", help="a mirror to ask instead of the official hosts")
    args = parser.parse_args(argv)
    try:
        for name in args.names or ["gsm8k"]:
            if name not in downloads:
                raise DataError(f"unknown data set {name!r}; there are {', '.join(downloads)}")
            for file_name, download in downloads[name].items():
                fetch(download, Path(args.root) / file_name, args.base_url or download.host)
    except DataError as error:
        print(f"data: {error}", file=sys.stderr)
        return 2
    return 0


def fetch(download: Download, target: Path, base_url: str) -> None:
    """Download one file to `target`, unless it is there already.

    Raises:
        DataError: another file has that name, or the network, the server, the disk or the checksum fails.
            Nothing is left behind then.
    """
    url = f"{base_url.rstrip('/')}/{download.path}"
    new_folder = not target.parent.exists()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists():
            _check_present(download, target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            _copy(download, url, file, target.name)
        os.replace(part, target)
    except DataError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())  # some servers' nonsense comes with line ends
        raise DataError(f"{target}: cannot be fetched from {url}: {reason}") from error
    finally:  # after Ctrl-C as well
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
            if new_folder and not target.exists():
                target.parent.rmdir()
    print(f"{target}: downloaded, checksum right")


def _check_present(download: Download, target: Path) -> None:
    if hashlib.sha256(target.read_bytes()).hexdigest() != download.sha256:
        raise DataError(f"{target}: is there, but it is not the official file (checksum): move it away")
    print(f"{target}: already there, checksum right")


def _copy(download: Download, url: str, file: BinaryIO, label: str) -> None:
    """Copy the URL's bytes to `file`, with a progress bar, and check them."""
    digest, received = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
        tqdm(total=download.size, unit="B", unit_scale=True, desc=label) as bar,
    ):
        # Never more than one chunk beyond what was promised, however long the server talks.
        while received <= download.size and (chunk := response.read(CHUNK_BYTES)):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != download.sha256:
        raise DataError(f"{url}: what came is not the official file: {received} bytes, wrong checksum")


if __name__ == "__main__":
    sys.exit(main())
