"""config.json of a repository on the Hugging Face hub, through huggingface_hub (extra `hub`).

Only config.json is fetched, into Hugging Face's own cache; HF_HOME, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE are respected, because the library reads them itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from planner.errors import InputError, MissingPartError

# What the hub accepts as owner/name.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(argument: str) -> bool:
    return _REPOSITORY.fullmatch(argument) is not None


def config_of(repository: str) -> Path:
    """The local path of a repository's config.json, fetched if it is not in the cache."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise MissingPartError(
            f"model {repository!r}: hub ids need an extra: pip install 'llm-training-planner[hub]'",
            "or give the path of its config.json",
        ) from None
    try:
        return Path(hf_hub_download(repository, "config.json"))
    except GatedRepoError:
        raise MissingPartError(
            f"model {repository!r}: the repository is gated",
            "accept its terms on the hub and set HF_TOKEN",
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"model {repository!r}: the hub has no such repository") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise MissingPartError(
            f"model {repository!r}: the hub is out of reach and the cache lacks its config.json",
            "or give the path of its config.json",
        ) from None
    except EntryNotFoundError:
        raise InputError(f"model {repository!r}: the repository has no config.json") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        message = f"model {repository!r}: the hub cannot be reached: {reason}"
        raise MissingPartError(message) from None
