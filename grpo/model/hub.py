"""The hub, asked once: without it, a library tries again for most of a minute, for each of several files."""

from __future__ import annotations

import huggingface_hub
from huggingface_hub import constants, get_session

from grpo.model.checks import ModelError

SECONDS = 5.0


def check(name: str, revision: str | None) -> None:
    """Take models from the cache alone if the hub does not answer. Raises ModelError if it is not there either."""
    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
        except Exception:  # of the HTTP library in use: no name service, no route, no answer, a proxy that refuses
            constants.HF_HUB_OFFLINE = True
    if constants.HF_HUB_OFFLINE:
        found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(found, str):
            raise ModelError(
                f"no such folder is there, {constants.ENDPOINT} does not answer, and no copy was downloaded before"
            )
