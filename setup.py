"""Packaging: `pip install -e .`; `constraints.txt` pins what was tested."""

from pathlib import Path

from setuptools import setup

setup(
    name="grpo",
    version="0.1.0",
    description="The reference GRPO trainer: from scratch in PyTorch, with a reflection reward",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "grpo",
        "grpo.model",
        "grpo.runs",
        "grpo.report",
        "rewards",
        "rewards.audit",
        "rewards.grader",
        "rewards.sandbox",
        "data",
        "data.sources",
        "data.solutions",
        "data.embedded",
    ],
    package_data={"data.embedded": ["tiny/*"], "grpo.report": ["templates/*"]},
    install_requires=[
        "torch>=2.6",
        "transformers>=5.0",
        "tokenizers",
        "safetensors",
        "mpmath",
        "numpy",
        "pyyaml",
        "tqdm",
        "jinja2",  # of chat templates and reports; torch needs it too
    ],
    extras_require={
        "gguf": ["gguf", "accelerate"],  # transformers reads .gguf files with them
        "data": ["datasets"],  # data sets of the hub, and .parquet files
        "figures": ["matplotlib"],  # the lab's curves and differences as SVG; the trainer draws nothing with it
        "dev": [
            "pytest",
            "pytest-xdist",  # the tests use both cores
            "datasets",  # the loaders of extra `data`
            "hypothesis",  # property-based tests
            "ruff",  # lint and format
            "peft",  # test peer: our adapters load there and give the same logits
            "trl",  # test peer: our rewards run in its GRPOTrainer, its rewards in ours
            "matplotlib",  # extra `figures`
            "math-verify",  # test peer: agreement of the graders; TRL's accuracy reward needs it
            "reward-doctor",  # test peer: exploits of rewards
        ],
    },
    entry_points={"console_scripts": ["grpo=grpo.cli:main"]},
)
