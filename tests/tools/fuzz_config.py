"""Throw mutated settings and data at the readers: each is accepted, or refused in clear lines, without a traceback.

    python tests/tools/fuzz_config.py --inputs 100000 --seed 0

Half of the inputs are YAML (the experiments' files), half JSON Lines. Mutations: flipped, dropped, doubled and swapped
bytes and lines, truncation, values of other types, deep nesting, huge numbers, odd unicode, duplicate keys, aliases.
Prints what it finds and exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data import DataConfig, DataError, load_problems
from grpo.runs.config import to_yaml
from grpo.runs.settings import ConfigError, load_config

REPO = Path(__file__).resolve().parents[2]
SLOW = 2.0
"""Seconds of computing that no input may take; ten times as long is a hang."""
LONGEST = 600
"""Characters of one line of an error."""

# ---- mutations ----------------------------------------------------------------------------------------------

# fmt: off
SCALARS = [
    "null", "true", "~", "0", "-1", "1", "1.5", "-0.0", "1e999", "-1e999", ".nan", ".inf", "9" * 400, "0x" + "f" * 40,
    "1_000", "0o17", "12:30:45", "2020-02-30", "2020-13-45", "!!int x", "!!binary x", "!!python/name:os.system",
    "!!set {a}", "!x y", "[]", "{}", "[1, [2, [3]]]", "{a: {b: {c: 1}}}", "''", '"', "'", "|", ">-", "? a", "*a",
    "&a b", "<<: *a", "%TAG", "---", "...", "\u202e", "\u2028", "\x00", "\x1b[31m", "\ufeff", "\U0001f600", "\ud800",
    "\u0661", "\x85", "@", "`", "no_such:thing", "os:system", "../..", "gsm8k", "demo",
]
BOMBS = [
    "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c]\nseed: *d",
    "a: &a {x: 1, y: 1}\nb: &b {x: *a, y: *a}\nc: &c {x: *b, y: *b}\nd: &d {x: *c, y: *c}\ne: {x: *d, y: *d}\n",
    "a: &a {b: *a}\n", "rewards: &a {accuracy: {args: {x: *a}}}\n", "rewards: {accuracy: {args: {x: &b [*b, 1]}}}\n",
    "[" * 3000, "{a: " * 3000, "- " * 3000, "a:\n " * 300,
]
# fmt: on


def mutate(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """One to four random changes of a file."""
    for _ in range(rng.randrange(1, 5)):
        content = rng.choice(MUTATIONS)(rng, content, others)
    return content[:20_000]


def _cut(rng: random.Random, content: bytes) -> tuple[int, int]:
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return a, min(b, a + rng.choice([1, 4, 40]))


def flip_bytes(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 4) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def drop(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    a, b = _cut(rng, content)
    return content[:a] + content[b:]


def insert(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    a, b = _cut(rng, content)
    piece = rng.choice([content[a:b] * rng.choice([2, 50]), rng.choice(SCALARS).encode("utf-8", "surrogatepass")])
    return content[:a] + piece + content[a:]


def swap_lines(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    lines = content.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def repeat_line(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    """Which makes duplicate keys."""
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"\n".join(lines)


def splice(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    other = rng.choice(others).split(b"\n")
    lines, at = content.split(b"\n"), rng.randrange(len(other))
    where = rng.randrange(len(lines) + 1)
    return b"\n".join([*lines[:where], *other[at : at + 3], *lines[where:]])


def change_value(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    """Another scalar, type or list after some `key:`."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    key, colon, _value = lines[at].partition(b":")
    lines[at] = key + colon + b" " + rng.choice(SCALARS).encode("utf-8", "surrogatepass") if colon else lines[at]
    return b"\n".join(lines)


def misspell(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    words = [i for i in range(1, len(content) - 1) if content[i - 1 : i + 2].isalpha()]
    at = rng.choice(words) if words else 0
    return content[:at] + bytes([rng.randrange(97, 123)]) * rng.randrange(3) + content[at + 1 :]


def bomb(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    return rng.choice([b"", content + b"\n"]) + rng.choice(BOMBS).encode()


def nest(rng: random.Random, content: bytes, _: list[bytes]) -> bytes:
    depth = rng.choice([3, 30, 3000])
    inner, (a, b) = rng.choice([(b"[", b"]"), (b'{"a": ', b"}")]), _cut(rng, content)
    return content[:a] + inner[0] * depth + content[a:b] + inner[1] * depth + content[b:]


MUTATIONS: list[Callable[[random.Random, bytes, list[bytes]], bytes]] = [
    flip_bytes, truncate, drop, insert, swap_lines, repeat_line, splice, change_value, change_value, misspell, misspell,
    bomb, nest,
]  # fmt: skip

# ---- the two readers ----------------------------------------------------------------------------------------


def yaml_files() -> list[bytes]:
    """What is mutated: the experiments' files and the whole configuration with its defaults."""
    files = sorted((REPO / "experiments").glob("*/*.yaml"))
    return [*(f.read_bytes() for f in files), to_yaml(load_config(None)).encode()]


def json_files() -> list[bytes]:
    """A few files of problems, as of GSM8K, MATH and anything else."""
    rows = [
        {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
        {"problem": "x^2?", "solution": "so \\boxed{4}", "level": "Level 1", "type": "Algebra"},
        {"question": "How many?", "answer": 4.5, "solution": "four and a half", "extra": {"a": [1, None, True]}},
        {"question": "\u00bfCu\u00e1ntos? \U0001f600", "answer": "1,000", "prompts": "x", "completions": []},
    ]
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)]
    return ["\n".join(lines[i : i + 3]).encode() + b"\n" for i in range(4)]


def check_yaml(content: bytes, override: str | None) -> str | None:
    """What is wrong with how a file of settings was read, or None."""
    with tempfile.NamedTemporaryFile(suffix=".yaml", dir=FOLDER) as file:
        file.write(content)
        file.flush()
        return _check(lambda: load_config(file.name, [override] if override is not None else []), ConfigError)


def check_jsonl(content: bytes, _: str | None) -> str | None:
    """What is wrong with how a file of problems was read, or None."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl", dir=FOLDER) as file:
        file.write(content)
        file.flush()
        for skip in (False, True):
            config = DataConfig(source=file.name, skip_bad_rows=skip)
            if problem := _check(lambda config=config: load_problems(config), DataError):
                return problem
    return None


OUTCOMES: Counter[str] = Counter()


def _check(read: Callable[[], object], refusal: type[Exception]) -> str | None:
    begun = time.process_time()
    try:
        read()
        OUTCOMES["accepted"] += 1
    except refusal as error:
        OUTCOMES["refused"] += 1
        lines = str(error).split("\n")
        if len(lines) > 1 and refusal is DataError:
            return f"no clear line: {error!r}"
        for line in lines:
            if not line.strip() or len(line) > LONGEST or not line.isprintable() or "Traceback" in line:
                return f"no clear line: {line[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error!r:.300}"
    taken = time.process_time() - begun
    return f"took {taken:.1f} s" if taken > SLOW else None


FOLDER = tempfile.gettempdir() if not Path("/dev/shm").is_dir() else "/dev/shm"


def fuzz(inputs: int, seed: int) -> int:
    """Check this many mutated inputs; the number of findings."""
    rng, findings, start = random.Random(seed), 0, time.perf_counter()
    kinds = [(check_yaml, yaml_files()), (check_jsonl, json_files())]
    for number in range(inputs):
        check, files = kinds[number % 2]
        content = mutate(rng, rng.choice(files), files)
        override = rng.choice([None, None, mutate(rng, b"grpo.steps=3", files).decode("utf-8", "replace")])
        with warnings.catch_warnings(), _alarm():
            warnings.simplefilter("ignore")
            problem = check(content, override)
        if problem:
            findings += 1
            print(f"{problem}\n  {check.__name__}({content[:600]!r}, {override!r})", flush=True)
        if number % 10_000 == 9_999:
            rate = number / (time.perf_counter() - start)
            print(f"{number + 1} inputs, {findings} findings, {dict(OUTCOMES)}, {rate:.0f}/s", flush=True)
    return findings


@contextlib.contextmanager
def _alarm():
    """An input that hangs is a finding, not the end."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"hangs for {10 * SLOW:.0f} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 10 * SLOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    findings = fuzz(options.inputs, options.seed)
    print(f"{options.inputs} inputs, {findings} findings, {dict(OUTCOMES)}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
