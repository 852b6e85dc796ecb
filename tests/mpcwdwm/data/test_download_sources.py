"""`data get` goes from one source to the next: mirrors, the original, and the copy on Hugging Face."""

import http.server
import importlib
import json
import threading
import time
from dataclasses import replace

import pytest

from mpcwdwm.data import download, find_task
from mpcwdwm.errors import UserError
from tests.support.synthetic import episodes, write_hdf5

module = importlib.import_module("mpcwdwm.data.download")
NAME = "hopper_medium-v2.hdf5"
SILENCE = 0.3


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how the request goes wrong."""

    def do_GET(self):
        body, how = self.server.body, self.path.split("/")[1]
        self.server.asked.append((how, self.path, self.headers.get("Authorization")))
        if how in ("403", "404"):
            self.send_error(int(how))
        elif how == "stalls":
            self.server.over.wait(5)
        elif how == "moved":
            self.send_response(302)
            self.send_header("Location", f"/good/{NAME}")
            self.end_headers()
        else:
            sent = body + bytes(7) if how == "size" else body
            self.send_response(200)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent[: len(sent) // 3] if how == "drops" else sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name, folder in (("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config"), ("D4RL_DATASET_DIR", "d4rl")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(module, "SILENCE_S", SILENCE)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.body = write_hdf5(tmp_path / "a.hdf5", episodes(lengths=[50] * 40, ends="to" * 20)).read_bytes()
    made.asked, made.over = [], threading.Event()
    made.base = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"{made.base}/404")
    yield made
    made.over.set()
    made.shutdown()
    thread.join()
    made.server_close()


def task_at(server, how):
    return replace(find_task("hopper-medium-v2"), url=f"{server.base}/{how}/{NAME}")


def mirrors(server, *hows):
    return [f"{server.base}/{how}" for how in hows]


def recorded(tmp_path, size):
    """Leave the record of a file that was there and is gone."""
    (tmp_path / "d4rl").mkdir(parents=True)
    record = {"url": None, "size": size, "sha256": "0" * 64}
    (tmp_path / "d4rl" / f"{NAME}.json").write_text(json.dumps(record))


def test_sources_that_drop_stall_refuse_and_lack_the_file_are_passed_over_in_turn(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.base}/good")
    started = time.monotonic()
    path = download(task_at(server, "404"), mirrors=mirrors(server, "drops", "stalls", "403"))
    assert path.read_bytes() == server.body
    order = list(dict.fromkeys(how for how, *_ in server.asked))
    assert order == ["drops", "stalls", "403", "404", "good"]
    assert server.asked[-1][1] == f"/good/{module.COPY}/{NAME}"
    assert time.monotonic() - started < 10 * SILENCE  # of which the silent host took one


def test_a_silent_host_is_asked_once(server):
    download(task_at(server, "good"), mirrors=mirrors(server, "stalls"))
    assert [how for how, *_ in server.asked] == ["stalls", "good"]


def test_a_source_with_another_size_than_recorded_is_passed_over(server, tmp_path):
    recorded(tmp_path, len(server.body))
    with pytest.raises(UserError, match="not the file recorded at first use"):  # by its hash, in the end
        download(task_at(server, "good"), mirrors=mirrors(server, "size"))
    assert [how for how, *_ in server.asked] == ["size", "good"]


def test_where_nobody_has_the_file_every_source_is_named(server):
    with pytest.raises(UserError) as caught:
        download(task_at(server, "403"), mirrors=mirrors(server, "stalls"))
    for said in (f"silent for {SILENCE} s", "HTTP 403", "HTTP 404", f"{module.COPY}/{NAME}"):
        assert said in str(caught.value)


def test_the_token_goes_to_hugging_face_alone(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", f"{server.base}/moved/")
    assert download(task_at(server, "404"), mirrors=mirrors(server, "403")).read_bytes() == server.body
    sent = {how: authorization for how, _, authorization in server.asked}
    assert sent == {"403": None, "404": None, "moved": "Bearer hf_secret", "good": None}


def test_without_an_endpoint_the_copy_is_at_hugging_face(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert module._hugging_face().startswith("https://huggingface.co/datasets/imone/D4RL/resolve/9ed58d8a")
