"""The house stays small and its imports point one way: limits and directions of the design, read from the files."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("grpo", "rewards", "data")
FILES = [path for package in PACKAGES for path in sorted((REPO / package).rglob("*.py"))]
MODULES = {".".join(p.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
READ_PATH = ("sampling", "logprobs", "advantages", "weights", "loss", "trainer")  # presets.py is settings
LOOP = ["trainer", "experience", "scoring", "evaluation", "sft", "rejection"]
LOOP = [f"grpo.{name}" for name in (*READ_PATH[:2], *LOOP)]
LOOP += [f"grpo.{name}" for name in ("cli", "minimal", "commands.bench", "commands.run")]
LOOP += [f"grpo.results.{name}" for name in ("compare", "curve")]  # a list: test names
REWARDS = [f"rewards.{n}" for n in ("accuracy", "format", "habits", "length", "reflection", "repetition")]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


# ---- size ---------------------------------------------------------------------------------------------------


def long_functions(text: str, most: int = 60) -> list[str]:
    """Functions and methods of more lines than that, from `def` to their end."""
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [f"{f.name}:{f.lineno}" for f in functions if f.end_lineno - f.lineno + 1 > most]


def test_no_file_is_over_300_lines_and_no_function_over_60():
    assert [str(path) for path in FILES if lines(path) > 300] == []
    assert {str(path): found for path in FILES if (found := long_functions(path.read_text(encoding="utf-8")))} == {}
    body = "    x = 1\n" * 60
    assert long_functions(f"class A:\n def f(self):\n{body}\ndef g():\n    pass\n") == ["f:2"]


def code_lines(text: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings (of fields either)."""
    texts = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    documented = {line for n in texts for line in range(n.lineno, n.end_lineno + 1)}
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in nothing]
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - documented)


def test_the_read_path_is_at_most_600_lines_of_code():
    assert sum(code_lines((REPO / "grpo" / f"{name}.py").read_text(encoding="utf-8")) for name in READ_PATH) <= 600
    assert (
        code_lines(
            '"""Doc\n\nstring."""\n\n# why\nx = (\n    1,  # one\n)\n\n\nclass A:\n    y: int = 0\n    """A."""\n'
        )
        == 5
    )


# ---- imports ------------------------------------------------------------------------------------------------


def imports(text: str) -> set[str]:
    """Our modules that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not read here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in MODULES} | ({node.module} if names - MODULES.keys() else set())
    return found & MODULES.keys()


GRAPH = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if found := visit(other, [*above, name]):
                    return found
            done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def test_no_files_import_each_other():
    assert circle(GRAPH) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert imports("def f():\n    from grpo.model import lora\n    import grpo.loss") == {
        "grpo.model.lora",
        "grpo.loss",
    }


def inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize(
    ("who", "knows_nothing_of"),
    [
        (("rewards",), ("grpo", "data")),
        (("data",), ("grpo",)),
        (("rewards.grader", "rewards.text"), ("rewards.sandbox", "rewards.audit", *REWARDS)),
        (("rewards.sandbox",), ("rewards.grader", "rewards.audit", *REWARDS)),
        (tuple(REWARDS), ("rewards.grader", "rewards.sandbox", "rewards.audit")),
        (("grpo.distributed",), ("grpo.model", "grpo.runs", "grpo.report", *LOOP)),
        (("grpo.model",), ("grpo.runs", "grpo.report", *LOOP)),
        (("grpo.runs",), ("grpo.report", *LOOP)),
        (("grpo.report",), tuple(LOOP)),
        (
            ("grpo.advantages", "grpo.loss", "grpo.presets", "grpo.weights", "grpo.types"),
            ("grpo.model", "grpo.runs", "grpo.report", *LOOP),
        ),
    ],
    ids=lambda names: names[0],
)
def test_imports_point_one_way(who, knows_nothing_of):
    members = [name for name in GRAPH if inside(name, who)]
    assert members and all(any(inside(name, (known,)) for name in MODULES) for known in knows_nothing_of)
    assert {name: bad for name in members if (bad := {x for x in GRAPH[name] if inside(x, knows_nothing_of)})} == {}


# ---- pure PyTorch -------------------------------------------------------------------------------------------


def test_there_is_no_c_and_no_private_operator():
    forbidden = re.compile(r"ctypes|cffi|\bCC\b|mkldnn\._|_linear_pointwise|torch\.ops\.")
    found = [str(path) for path in (REPO / "grpo").rglob("*.py") if forbidden.search(path.read_text(encoding="utf-8"))]
    assert found == []
    listed = subprocess.run(
        ["git", "ls-files", "*.c", "*.h", "*.cpp", "*.cu"], cwd=REPO, capture_output=True, text=True
    )
    assert listed.stdout == ""


def test_the_packages_that_are_installed_are_those_that_there_are():
    text = (REPO / "setup.py").read_text(encoding="utf-8")
    packages = set(ast.literal_eval(re.search(r"packages=(\[.*?\])", text, re.DOTALL)[1]))
    assert packages == {".".join(path.parent.relative_to(REPO).parts) for path in FILES}
    data = ast.literal_eval(re.search(r"package_data=(\{.*?\})", text, re.DOTALL)[1])
    shipped = {f for package, globs in data.items() for g in globs for f in (REPO / package.replace(".", "/")).glob(g)}
    there = {f for package in PACKAGES for f in (REPO / package).rglob("*") if f.is_file() and f.suffix != ".py"}
    assert shipped == {f for f in there if "__pycache__" not in f.parts}
