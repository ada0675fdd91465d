import functools
import hashlib
import http.server
import threading

import pytest
import requests
from huggingface_hub import constants

from resnet_jax.errors import DataError
from resnet_jax.weights import hub
from resnet_jax.weights.hub import from_address, local_file

CONTENT = b"weights"
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a folder that is served, the folder, and the list of what was asked for."""
    monkeypatch.setenv("NO_PROXY", "*")
    served, asked = tmp_path / "served", []
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *values):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served)) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{serving.server_port}", served, asked
        serving.shutdown()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face Hub, on a machine that cannot reach it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_published_file_is_downloaded_once_and_kept_by_its_name(server, tmp_path):
    address, served, asked = server
    (served / NAME).write_bytes(CONTENT)
    for _ in range(2):
        file = from_address(f"{address}/{NAME}", tmp_path / "cache" / "weights")
        assert file == tmp_path / "cache" / "weights" / NAME and file.read_bytes() == CONTENT
    assert len(asked) == 1


def test_a_download_of_another_hash_is_refused_and_not_kept(server, tmp_path):
    address, served, _ = server
    (served / NAME).write_bytes(b"a web page")
    with pytest.raises(DataError, match=rf"{NAME} is damaged, as its sha256 does not begin with .*: try again later"):
        from_address(f"{address}/{NAME}", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_in_the_cache_is_checked_too(tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="delete it, so that it is downloaded again"):
        from_address(f"https://example.org/{NAME}", tmp_path)


def test_a_file_that_cannot_be_downloaded_is_reported_with_its_address(server, tmp_path):
    with pytest.raises(
        DataError, match=rf"{NAME} could not be downloaded from http://.* \(HTTPError\): get it elsewhere"
    ):
        from_address(f"{server[0]}/{NAME}", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["resnet50.IMAGENET1K_V1", "resnet50-0676ba61.pth"])
def test_weights_of_a_preset_are_downloaded_from_their_address(name, tmp_path, monkeypatch):
    def refuse(address, file, _):
        raise requests.ConnectionError(address)

    monkeypatch.setattr(hub.pooch, "os_cache", lambda project: tmp_path / project)
    monkeypatch.setattr(hub.pooch, "HTTPDownloader", lambda progressbar: refuse)
    address = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    with pytest.raises(DataError, match=rf"could not be downloaded from {address} \(ConnectionError\)"):
        local_file(name)


def test_what_lies_at_a_path_comes_before_what_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(CONTENT)
    assert local_file("resnet50-0676ba61.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["hf:timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k", "resnet50.a1_in1k"])
def test_weights_in_the_hubs_cache_are_found_without_a_connection(offline, name, file):
    repository, commit = offline / "models--timm--resnet50.a1_in1k", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / file).write_bytes(CONTENT)
    assert local_file(name).read_bytes() == CONTENT


def test_without_a_connection_the_hubs_other_weights_are_reported_in_one_sentence(offline):
    with pytest.raises(DataError, match=r"^timm/resnet18\.mine is not in the cache of huggingface_hub, .* be reached"):
        local_file("hf:timm/resnet18.mine")


def test_a_hub_that_does_not_answer_is_reported_at_once(offline, server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub.reachable(server[0])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard service, which nobody runs
    with pytest.raises(DataError, match="the Hugging Face Hub cannot be reached"):
        local_file("hf:timm/resnet18.mine")


@pytest.mark.parametrize("name", ["hf:not a name", "hf:a/b/c", "hf:"])
def test_a_name_that_the_hub_cannot_have_is_refused_in_one_sentence(offline, name):
    with pytest.raises(DataError, match=r"cannot be had from the Hugging Face Hub .*: check the name\.$") as caught:
        local_file(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet50.a1_ink", "resnet50-0676ba16.pth"])
def test_a_name_that_is_nearly_known_is_corrected(name):
    with pytest.raises(DataError, match=rf"there is no weights file {name}: check the name, did you mean 'resnet50"):
        local_file(name)
