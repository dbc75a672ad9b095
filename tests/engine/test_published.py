"""Published weights: from the cache, or fetched from a server on this machine."""

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import DownloadFailed, EngineError, ModelUnreadable, WeightsMissing
from engine.job import Cancelled, Job
from engine.requests import OpenRequest
from engine.sources.architectures import CatalogueName, build, open_architecture
from engine.sources.libraries import published, timm_models, torchvision_models
from engine.sources.libraries.published import PublishedFile, cache_folder, fetch, read_published

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of weights for squeezenet1_1, all of them three."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    state = build("squeezenet1_1", "meta").model.state_dict()
    torch.save({name: torch.full(one.shape, 3.0) for name, one in state.items()}, path)
    return path.read_bytes()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """Starts a server on this machine that gives one answer; its address."""
    monkeypatch.setattr(published, "_SCHEMES", ("https", "http"))
    monkeypatch.setenv("no_proxy", "*")
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def sends(content: bytes, length: int | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content) if length is None else length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def named(content: bytes) -> str:
    return f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def published_file(content: bytes, base: str = "https://weights.invalid") -> PublishedFile:
    return PublishedFile("squeezenet1_1 V1", f"{base}/models/{named(content)}", len(content))


def is_all_three(tensors: dict[str, Tensor]) -> bool:
    return bool(tensors) and all(bool((one == 3).all()) for one in tensors.values())


# From the cache


def test_weights_in_the_cache_are_read(weights: bytes, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / named(weights)).write_bytes(weights)
    assert cache_folder() == cache
    assert is_all_three(read_published(published_file(weights), False, Job()))


def test_missing_weights_say_what_a_download_would_be(weights: bytes, cache: Path) -> None:
    wanted = published_file(weights)
    with pytest.raises(WeightsMissing, match=r"squeezenet1_1 V1 are not on this machine") as caught:
        read_published(wanted, False, Job())
    assert caught.value.details == {"url": wanted.url, "bytes": len(weights)}
    assert not cache.exists()


def test_the_offer_for_a_real_model() -> None:
    with pytest.raises(WeightsMissing) as caught:
        open_architecture(OpenRequest("resnet50@IMAGENET1K_V2"), Job())
    details = caught.value.details
    assert details["url"] == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert details["bytes"] == pytest.approx(97.79 * 2**20, abs=1)


def test_a_damaged_file_in_the_cache_is_refused(weights: bytes, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / named(weights)).write_bytes(weights[:-1] + b"!")
    with pytest.raises(ModelUnreadable, match="is damaged: its SHA-256") as caught:
        read_published(published_file(weights), False, Job())
    assert "Delete" in caught.value.remedy


def test_a_file_that_may_not_be_read(
    weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    cache.mkdir(parents=True)
    (cache / named(weights)).write_bytes(weights)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelUnreadable, match="cannot be read: Permission denied"):
        read_published(published_file(weights), False, Job())


def test_what_is_no_file_of_tensors_is_refused_and_not_run(cache: Path, tmp_path: Path) -> None:
    cache.mkdir(parents=True)
    proof = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (proof,)

    torch.save({"a": Evil()}, cache / "evil.pth")
    content = (cache / "evil.pth").read_bytes()
    (cache / named(content)).write_bytes(content)
    with pytest.raises(ModelUnreadable, match="not a file of tensors alone"):
        read_published(published_file(content), False, Job())
    assert not proof.exists()


# Fetched


def test_a_download_is_checked_kept_and_counted(
    weights: bytes, cache: Path, serve: Callable[[Answer], str]
) -> None:
    job, steps = Job(), []
    job.advance = lambda steps_=1: steps.append(steps_)  # type: ignore[method-assign]
    wanted = published_file(weights, serve(sends(weights)))
    fetch(wanted, job)
    assert [one.name for one in cache.iterdir()] == [named(weights)]
    assert (cache / named(weights)).read_bytes() == weights
    assert sum(steps) == job.total == len(weights)
    assert "squeezenet1_1 V1" in job.text
    assert is_all_three(read_published(wanted, False, Job()))


def test_a_damaged_file_is_replaced_when_downloads_are_allowed(
    weights: bytes, cache: Path, serve: Callable[[Answer], str]
) -> None:
    cache.mkdir(parents=True)
    (cache / named(weights)).write_bytes(b"damaged")
    wanted = published_file(weights, serve(sends(weights)))
    assert is_all_three(read_published(wanted, True, Job()))
    assert (cache / named(weights)).read_bytes() == weights


def test_a_model_is_opened_with_downloaded_weights(
    weights: bytes, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = published_file(weights, serve(sends(weights)))
    monkeypatch.setattr(torchvision_models, "published", lambda _name: wanted)
    request = OpenRequest("squeezenet1_1@IMAGENET1K_V1", download=True)
    opened = open_architecture(request, Job())
    assert opened.info.trained
    assert opened.info.notes == ()
    assert opened.info.source == "torchvision:squeezenet1_1@IMAGENET1K_V1"
    assert is_all_three(dict(opened.model.state_dict()))


def redirects(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "ftp://127.0.0.1/weights.pth")
    request.end_headers()


def breaks_off(request: BaseHTTPRequestHandler) -> None:
    """Says nothing; the server then closes the connection."""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda one: one.send_error(404, "Not Found"), "127.0.0.1 answered “404 Not Found”"),
        (lambda one: one.send_error(503, "Busy"), "127.0.0.1 answered “503 Busy”"),
        (sends(b"something else"), "is damaged: its SHA-256 does not begin with"),
        (sends(b"half of it", length=1000), "broke after 10 of 1,000 bytes"),
        (redirects, "is not an encrypted"),
        (breaks_off, "127.0.0.1"),
    ],
    ids=["missing", "busy", "changed", "cut short", "redirected", "broken off"],
)
def test_what_goes_wrong_is_said_and_nothing_is_left(
    answer: Answer, message: str, weights: bytes, cache: Path, serve: Callable[[Answer], str]
) -> None:
    with pytest.raises(DownloadFailed) as caught:
        fetch(published_file(weights, serve(answer)), Job())
    assert message in str(caught.value)
    assert list(cache.iterdir()) == []


def test_without_a_network(weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadFailed, match=r"^weights.invalid cannot be reached: Network is"):
        fetch(published_file(weights), Job())
    assert list(cache.iterdir()) == []


def test_only_encrypted_addresses(weights: bytes, cache: Path) -> None:
    with pytest.raises(DownloadFailed, match="is not an encrypted"):
        fetch(published_file(weights, "http://127.0.0.1:9"), Job())
    assert list(cache.iterdir()) == []


def test_a_full_disk(
    weights: bytes, cache: Path, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(published.os, "fsync", full)
    with pytest.raises(DownloadFailed, match="could not be written: No space left") as caught:
        fetch(published_file(weights, serve(sends(weights))), Job())
    assert "Make room" in caught.value.remedy
    assert list(cache.iterdir()) == []


def test_a_cancelled_download_leaves_nothing(
    weights: bytes, cache: Path, serve: Callable[[Answer], str], stop_at: type[Job]
) -> None:
    job = stop_at(3)  # type: ignore[call-arg]
    with pytest.raises(Cancelled):
        fetch(published_file(weights, serve(sends(weights))), job)
    assert list(cache.iterdir()) == []


# Which file


@pytest.mark.parametrize(
    "name",
    [
        f"{name}@{entry.name}"
        for name in torchvision_models.names()
        for entry in torchvision_models.entries(name)
    ],
)
def test_every_published_file_is_encrypted_and_named(name: str) -> None:
    found = torchvision_models.published(CatalogueName.parse(name))
    assert found.url.startswith("https://download.pytorch.org/")
    assert found.bytes is not None
    assert found.file.parent == cache_folder()
    # Torch's own loader checks the same part of the name.
    pattern = torch.hub.HASH_REGEX.search(found.file.name)
    assert found.digest == (pattern[1] if pattern else "")


def test_timm_weights_are_offered_from_where_timm_has_them() -> None:
    pytest.importorskip("timm")
    with pytest.raises(WeightsMissing) as caught:
        open_architecture(OpenRequest("timm:resnet10t@pretrained"), Job())
    assert caught.value.details["url"].startswith("https://huggingface.co/timm/resnet10t")
    none = next(
        name
        for name in timm_models.names()
        if not timm_models.is_published(timm_models.settings_of(name))
    )
    with pytest.raises(EngineError, match="timm publishes no weights"):
        open_architecture(OpenRequest(f"timm:{none}@pretrained"), Job())
