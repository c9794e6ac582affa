"""A checkpoint from a model hub, by huggingface_hub: resumed where a download broke off, found again without a network.

The hub's address and the token for gated models come from the environment (HF_ENDPOINT, HF_TOKEN).
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.quiet import quiet

_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "LICENSE*", "README.md")
_OTHER_FORMATS = ("onnx/*", "openvino/*", "original/*")
_NUM_CONNECTIONS = 4


def download_snapshot(hub_id: str, revision: str | None, cache: Path, *, offline: bool) -> Path:
    """Download a snapshot; return its folder, whose name is the commit.

    Raises:
        QuantizeError: unknown, gated, not reachable, or offline and not in the cache.
    """
    with quiet():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            return Path(
                snapshot_download(
                    hub_id,
                    revision=revision,
                    cache_dir=cache,
                    endpoint=os.environ.get("HF_ENDPOINT"),
                    local_files_only=offline,
                    allow_patterns=list(_FILES),
                    ignore_patterns=list(_OTHER_FORMATS),
                    max_workers=_NUM_CONNECTIONS,
                )
            )
        except GatedRepoError as err:
            raise QuantizeError(
                f"{hub_id} is gated: accept its terms on the hub, then set HF_TOKEN to a token of that account"
            ) from err
        except RevisionNotFoundError as err:
            raise QuantizeError(f"{hub_id} has no revision {revision!r}") from err
        except RepositoryNotFoundError as err:
            raise QuantizeError(f"the hub has no model {hub_id}, or it is private and HF_TOKEN is not set") from err
        except LocalEntryNotFoundError as err:
            missing = f"{hub_id} is not in the cache"
            reason = f"{missing}; run once without --offline" if offline else f"the hub is not reachable and {missing}"
            raise QuantizeError(reason if offline else f"{reason}; connect, or give a folder") from err
        except (HfHubHTTPError, OSError, ValueError) as err:
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise QuantizeError(
                f"{hub_id} cannot be fetched from the hub: {reason}; the next run resumes the download"
            ) from err
