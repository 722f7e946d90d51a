"""Lets Orbax write to s3://.

Orbax stores arrays with TensorStore and small files with epath, which both support S3. But Orbax itself checks in
four places whether a path is gs://, and takes any other for a local path. This module adds s3:// to those four.
Both kinds of buckets are then treated alike: a checkpoint is valid once its commit file exists.
"""

import os
import posixpath
from typing import Any
from urllib.parse import urlsplit

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from star_jax.files import BUCKETS

_kvstore_for_gcs = gcs_utils.get_kvstore_for_gcs


def teach_orbax_s3() -> None:
    """Makes Orbax write to s3:// as to gs:// in this process."""
    gcs_utils._GCS_PATH_PREFIX = BUCKETS
    gcs_utils.get_kvstore_for_gcs = _kvstore
    tensorstore_utils._use_gcs_driver = lambda directory: directory.startswith(BUCKETS)
    tensorstore_utils._normalize_path = _normalized


def _kvstore(url: str) -> dict[str, Any]:
    """TensorStore's spec of a path in a bucket; endpoint and region come from the variables of AWS's tools."""
    if not url.startswith("s3://"):
        return _kvstore_for_gcs(url)
    parts = urlsplit(url)
    spec = {"driver": "s3", "bucket": parts.netloc, "path": parts.path.lstrip("/")}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        spec["endpoint"] = endpoint
        # Without a region TensorStore would ask Amazon, even for another store.
        region = region or "us-east-1"
    return {**spec, **({"aws_region": region} if region else {})}


def _normalized(path: str) -> str:
    """The normalised path, with the two slashes of a URL kept."""
    scheme, separator, rest = path.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(rest)}"
