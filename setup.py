"""Packaging: `pip install .` or `pip install -e .`; `constraints.txt` pins what was tested.

The distribution is called `grpo-reference`, since `grpo` on PyPI is another's. The packages are `grpo`, `rewards` and
`data`, the command is `grpo`.
"""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("bench/tiny.yaml", "demo/*.yaml", "gsm8k/*.yaml", "paper/*.yaml", "svamp/*.yaml")
SHIPPED += ("results/expected/demo.json",)  # the band that the report draws behind the demo's curves


class BuildWithExperiments(build_py):
    """A built package also holds the stages' YAML files and the demo's expected band, as grpo/experiments/: a checkout
    has them beside `grpo`."""

    def run(self) -> None:
        super().run()
        for file in [] if self.editable_mode else self.shipped():
            target = Path(self.build_lib, "grpo", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))

    def shipped(self) -> list[Path]:
        return [file for names in SHIPPED for file in sorted(Path("experiments").glob(names))]

    def get_source_files(self) -> list[str]:  # what a source distribution needs
        return [*super().get_source_files(), *map(str, self.shipped())]


setup(
    name="grpo-reference",
    version=re.search(r'"([\d.]+)"', Path("grpo/version.py").read_text(encoding="utf-8"))[1],
    description="The reference GRPO trainer: from scratch in PyTorch, with a reflection reward",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["GRPO", "reinforcement learning", "language models", "reasoning", "RLVR"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",  # a run folder is locked with fcntl
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/2603.14041"},
    cmdclass={"build_py": BuildWithExperiments},
    python_requires=">=3.11",
    packages=[
        "grpo",
        "grpo.model",
        "grpo.runs",
        "grpo.report",
        "grpo.commands",
        "grpo.results",
        "rewards",
        "rewards.audit",
        "rewards.grader",
        "rewards.sandbox",
        "data",
        "data.sources",
        "data.solutions",
        "data.embedded",
    ],
    package_data={
        "data": ["py.typed"],
        "data.embedded": ["tiny/*"],
        "grpo": ["py.typed"],
        "grpo.report": ["templates/*"],
        "rewards": ["py.typed"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.0",
        "tokenizers",
        "safetensors",
        "sympy",  # of the grader; mpmath, which it evaluates with, comes with it
        "numpy",
        "pyyaml",
        "tqdm",
        "jinja2",  # of chat templates and reports; torch needs it too
    ],
    extras_require={
        "gguf": ["gguf", "accelerate"],  # transformers reads .gguf files with them
        "data": ["datasets"],  # data sets of the hub, and .parquet files
        "tensorboard": ["tensorboard"],  # log.to: [tensorboard]; torch writes its event files with it
        "wandb": ["wandb"],  # log.to: [wandb]
        "trackio": ["trackio"],  # log.to: [trackio]
        "figures": ["matplotlib"],  # the lab's curves and differences as SVG; the trainer draws nothing with it
        "dev": [
            "pytest",
            "pytest-xdist",  # the tests use both cores
            "datasets",  # the loaders of extra `data`
            "hypothesis",  # property-based tests
            "ruff",  # lint and format
            "selenium",  # tests of the report in Chromium, where there is one
            "axe-selenium-python",  # its accessibility
            "peft",  # test peer: our adapters load there and give the same logits
            "trl",  # test peer: our rewards run in its GRPOTrainer, its rewards in ours
            "matplotlib",  # extra `figures`
            "math-verify",  # test peer: agreement of the graders; TRL's accuracy reward needs it
            "reward-doctor",  # test peer: exploits of rewards
            "setuptools",  # builds the wheel that a test runs, offline
            "wheel",
            "tensorboard",  # a test reads the event file of log.to: [tensorboard]
        ],
    },
    entry_points={"console_scripts": ["grpo=grpo.cli:main"]},
)
