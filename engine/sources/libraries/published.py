"""Published weights: found in torch's cache on this machine, or fetched when that is asked for.

The cache is the one that torch itself uses, so that nothing is fetched twice.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from torch import Tensor, nn

from engine.errors import ConsentNeeded, DownloadFailed, ModelUnreadable, WeightsMissing
from engine.job import Job
from engine.requests import OpenRequest
from engine.sources.files.safetensors_files import read_safetensors
from engine.sources.files.sniffing import Kind, sniff
from engine.sources.files.torch_files import read_torch

SECONDS = 20.0
"""Without an answer for so long, a download has failed."""

_SCHEMES = ("https",)
_CHUNK = 1 << 18
_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # as torch's own loader reads it


@dataclass(frozen=True)
class PublishedFile:
    """Weights as they are published.

    Attributes:
        name: of model and weights, for messages.
        bytes: size of the file; None when unknown.
        cached_as: name of the file in the cache; the URL's own when left out.
        elsewhere: another place on this machine where a library keeps it.
    """

    name: str
    url: str
    bytes: int | None
    cached_as: str = ""
    elsewhere: Path | None = None

    @property
    def file(self) -> Path:
        """Where it is, or would be put."""
        if self.elsewhere is not None:
            return self.elsewhere
        return cache_folder() / (self.cached_as or urlsplit(self.url).path.rpartition("/")[2])

    @property
    def digest(self) -> str:
        """How the file's SHA-256 begins, as its name says; "" when it says nothing."""
        found = _HASH.search(self.url)
        return found[1] if found else ""


def cache_folder() -> Path:
    """Folder in which torch keeps published weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def read_published(published: PublishedFile, download: bool, job: Job) -> dict[str, Tensor]:
    """The published tensors by name; nothing in the file is executed.

    Args:
        download: whether a file that is missing or damaged may be fetched.

    Raises:
        WeightsMissing: it is not on this machine and may not be fetched.
        DownloadFailed: it could not be fetched.
        ModelUnreadable: what is on this machine is damaged.
    """
    path = published.file
    if not path.is_file():
        if not download:
            raise WeightsMissing(
                f"The weights {published.name} are not on this machine.",
                details={"url": published.url, "bytes": published.bytes},
            )
        fetch(published, job)
    elif not _is_whole(path, published.digest, job):
        if not download:
            raise ModelUnreadable(
                f"{path} is damaged: its SHA-256 is not the one in its name.",
                "Delete the file, then allow the download.",
            )
        fetch(published, job)
    return _tensors(path, job)


def fetch(published: PublishedFile, job: Job) -> None:
    """Download the file into the cache; its progress is counted in bytes.

    Raises:
        DownloadFailed: with the reason; nothing is left behind.
        Cancelled: likewise.
    """
    host = urlsplit(published.url).hostname or published.url
    job.begin(f"Downloading {published.name}", published.bytes or 0)
    try:
        with _temporary(published.file) as (file, path):
            digest = _receive(published, file, job)
            if not digest.startswith(published.digest):
                raise DownloadFailed(
                    f"What {host} sent for {published.name} is damaged: its SHA-256 does not "
                    f"begin with {published.digest}.",
                    "Try again, or look for a proxy that changes downloads.",
                )
            file.flush()
            os.fsync(file.fileno())
            file.close()
            path.replace(published.file)
    except HTTPError as error:
        error.close()
        raise DownloadFailed(
            f"{host} answered “{error.code} {error.reason}” for {published.name}."
        ) from error
    except URLError as error:
        raise DownloadFailed(f"{host} cannot be reached: {_cause(error.reason)}.") from error
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadFailed(f"The connection to {host} broke: {_cause(error)}.") from error
    except OSError as error:
        raise DownloadFailed(
            f"{published.name} could not be written: {_cause(error)}.",
            f"Make room in {cache_folder()}, or point TORCH_HOME at another folder.",
        ) from error


def _receive(published: PublishedFile, file: IO[bytes], job: Job) -> str:
    """Write what the server sends; its SHA-256."""
    _check_scheme(published.url)
    digest, received = hashlib.sha256(), 0
    request = Request(published.url, headers={"User-Agent": "Secateur"})
    with build_opener(_Redirects).open(request, timeout=SECONDS) as answer:
        expected = int(answer.headers.get("Content-Length") or 0)
        job.total = expected or job.total
        while chunk := answer.read1(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            job.advance(len(chunk))
    if expected and received != expected:
        raise DownloadFailed(
            f"The connection broke after {received:,} of {expected:,} bytes of {published.name}."
        )
    return digest.hexdigest()


class _Redirects(HTTPRedirectHandler):
    """Follows a server elsewhere, but never off an encrypted connection."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        try:
            _check_scheme(newurl)
        except DownloadFailed:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in _SCHEMES:
        raise DownloadFailed(f"{url} is not an encrypted (https) address.")


def _cause(error: object) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file in the target's folder that is gone afterwards, unless it took the target's name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, Path(name)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def _is_whole(path: Path, digest: str, job: Job) -> bool:
    if not digest:
        return True
    found = hashlib.sha256()
    try:
        job.begin("Checking the weights", path.stat().st_size)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                job.advance(len(chunk))
    except OSError as error:
        raise ModelUnreadable(
            f"{path} cannot be read: {_cause(error)}.", "Allow this user to read the file."
        ) from error
    return found.hexdigest().startswith(digest)


def _tensors(path: Path, job: Job) -> dict[str, Tensor]:
    kind = sniff(path)
    if kind is Kind.SAFETENSORS:
        return read_safetensors(path).read()
    if kind not in (Kind.TORCH_ZIP, Kind.LEGACY_PICKLE):
        raise _no_weights(path)
    try:
        found = read_torch(path, kind, OpenRequest(str(path)), job)
    except ConsentNeeded as error:
        raise _no_weights(path) from error
    if isinstance(found, nn.Module):
        raise _no_weights(path)
    # Once more as it is: beside its tensors, a state dict has the versions of its layers, by
    # which some architectures know how to read it.
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) for one in state.values()):
        raise _no_weights(path)
    return state


def _no_weights(path: Path) -> ModelUnreadable:
    return ModelUnreadable(
        f"{path} is not a file of tensors alone, as published weights are.",
        "Delete the file, then allow the download.",
    )
