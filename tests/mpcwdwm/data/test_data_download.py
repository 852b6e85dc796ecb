import http.server
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field, replace

import pytest

from mpcwdwm.data import TASKS, dataset_path, download, find_task, mirrors_from_settings, sha256_of
from mpcwdwm.errors import UserError
from tests.support.synthetic import episodes, write_hdf5

module = importlib.import_module("mpcwdwm.data.download")  # the package shows the function of that name
NAME = "hopper_medium-v2.hdf5"
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens


# ── A server that misbehaves on demand ────────────────────────────────────────


@dataclass
class Behaviour:
    body: bytes = b""
    ranges: bool = True
    etag: str | None = '"1"'
    breaks: list[int] = field(default_factory=list)  # bytes sent before hanging up, one entry per request
    length: bool = True  # whether to announce Content-Length
    status: int | None = None
    pace: float = 0.0  # seconds before each block
    requests: list[dict] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        how: Behaviour = self.server.how
        wanted = self.headers.get("Range")
        how.requests.append({"path": self.path, "range": wanted})
        if how.status:
            self.send_error(how.status)
            return
        start, total = 0, len(how.body)
        unchanged = self.headers.get("If-Range") in (None, how.etag)
        if wanted and how.ranges and unchanged:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        if how.etag:
            self.send_header("ETag", how.etag)
        if how.length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        stop = min(total, start + how.breaks.pop(0)) if how.breaks else total
        for at in range(start, stop, 4096):
            time.sleep(how.pace)
            self.wfile.write(how.body[at : min(at + 4096, stop)])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    path = write_hdf5(tmp_path_factory.mktemp("made") / "a.hdf5", episodes(lengths=[50] * 40, ends="to" * 20))
    return path.read_bytes()


@pytest.fixture
def served(body):
    """Return a behaviour and the base address of the server that shows it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.how = Behaviour(body)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.how, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name, folder in (("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config"), ("D4RL_DATASET_DIR", "d4rl")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(module, "BLOCK", 8192)


def task_at(base):
    return replace(find_task("hopper-medium-v2"), url=f"{base}/gym_mujoco_v2/{NAME}")


def left_over(tmp_path):
    return sorted(path.name for path in (tmp_path / "d4rl").iterdir())


def interrupted(served, tmp_path, after=20_000):
    """Leave a part of a download that broke off, and return the task and its part."""
    how, base = served
    how.breaks = [after, 0, 0]
    with pytest.raises(UserError, match="run the same command again"):
        download(task_at(base))
    part = tmp_path / "d4rl" / f"{NAME}.part"
    assert part.stat().st_size == after
    how.requests.clear()
    return task_at(base), part


# ── The plain case ────────────────────────────────────────────────────────────


def test_a_download_lands_whole_under_d4rls_name_with_its_record(served, tmp_path, body):
    how, base = served
    calls = []
    path = download(task_at(base), on_progress=lambda done, total: calls.append((done, total)))
    assert path == tmp_path / "d4rl" / NAME
    assert path.read_bytes() == body
    assert left_over(tmp_path) == [NAME, f"{NAME}.json"]
    record = json.loads((tmp_path / "d4rl" / f"{NAME}.json").read_text())
    assert (record["size"], record["sha256"]) == (len(body), sha256_of(path))
    assert calls[-1] == (len(body), len(body))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) > 3
    assert download(task_at(base)) == path == dataset_path(task_at(base))
    assert len(how.requests) == 1  # the second time nothing was asked


def test_an_existing_file_that_has_changed_is_reported_not_replaced(served, tmp_path):
    _, base = served
    path = download(task_at(base))
    write_hdf5(path, episodes(seed=5))
    with pytest.raises(UserError, match="not the file recorded at first use") as caught:
        download(task_at(base))
    assert "delete" in str(caught.value)


# ── Resume ────────────────────────────────────────────────────────────────────


def test_a_broken_download_goes_on_where_it_stopped(served, tmp_path, body):
    task, _ = interrupted(served, tmp_path)
    calls = []
    assert download(task, on_progress=lambda done, total: calls.append((done, total))).read_bytes() == body
    assert [request["range"] for request in served[0].requests] == ["bytes=20000-"]
    assert calls[0][0] > 20_000
    assert calls[-1] == (len(body), len(body))
    assert left_over(tmp_path) == [NAME, f"{NAME}.json"]


def test_breaks_within_one_call_are_mended_in_the_same_call(served, body):
    how, base = served
    how.breaks = [30_000, 10_000]
    assert download(task_at(base)).read_bytes() == body
    assert [request["range"] for request in how.requests] == [None, "bytes=30000-", "bytes=40000-"]


def test_a_server_without_ranges_starts_again(served, tmp_path, body):
    task, _ = interrupted(served, tmp_path)
    served[0].ranges = False
    assert download(task).read_bytes() == body


def test_two_versions_of_a_file_are_never_joined(served, tmp_path, body):
    task, _ = interrupted(served, tmp_path)
    served[0].etag = '"2"'
    served[0].body = bytes(len(body) // 2) + body[len(body) // 2 :]
    with pytest.raises(UserError, match="not a complete HDF5 file"):  # the new version, and it is no HDF5
        download(task)
    served[0].body = body
    assert download(task).read_bytes() == body


def test_without_a_version_mark_another_size_is_another_file(served, tmp_path, body):
    served[0].etag = None
    task, _ = interrupted(served, tmp_path)
    served[0].body = body + bytes(10)
    assert download(task).read_bytes() == body + bytes(10)
    assert served[0].requests[-1]["range"] is None


def test_no_redirection_leads_out_of_tls():
    follow = module._StayingEncrypted().redirect_request
    ask = urllib.request.Request("https://a.org/x")
    with pytest.raises(module._Refused, match="without encryption"):
        follow(ask, None, 302, "Found", {}, "http://b.org/x")
    assert follow(ask, None, 302, "Found", {}, "https://b.org/x").full_url == "https://b.org/x"
    plain = urllib.request.Request("http://127.0.0.1/x")  # a mirror of one's own
    assert follow(plain, None, 302, "Found", {}, "http://127.0.0.1/y").full_url == "http://127.0.0.1/y"


def test_the_originals_are_asked_over_tls(monkeypatch):
    asked = []
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setattr(module, "_fetch", lambda address, *_: asked.append(address) or module._require_hdf5)
    for task in (task for task in TASKS.values() if task.url):
        with pytest.raises(UserError):
            download(task, mirrors=[])
    assert len(asked) == 64
    assert all(address.startswith("https://") for address in asked)


def test_a_mirrors_password_is_neither_shown_nor_recorded(tmp_path):
    with pytest.raises(UserError) as raised:
        download(task_at(CLOSED), mirrors=[CLOSED.replace("://", "://me:hunter2@")])
    assert "hunter2" not in str(raised.value)
    assert "://***@" in str(raised.value)


def test_a_part_that_is_complete_already_only_gets_its_name(served, tmp_path, body):
    task, part = interrupted(served, tmp_path)
    part.write_bytes(body)
    assert download(task).read_bytes() == body
    assert [request["range"] for request in served[0].requests] == [f"bytes={len(body)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(served, tmp_path, body):
    task, part = interrupted(served, tmp_path)
    part.write_bytes(body + b"x")
    assert download(task).read_bytes() == body


@pytest.mark.parametrize("note", [None, "{", "[]"])
def test_a_part_of_unknown_origin_is_not_continued(served, tmp_path, body, note):
    (tmp_path / "d4rl").mkdir()
    part = tmp_path / "d4rl" / f"{NAME}.part"
    part.write_bytes(b"x" * 1000)
    if note is not None:
        part.with_name(part.name + ".json").write_text(note)
    assert download(task_at(served[1])).read_bytes() == body
    assert served[0].requests[0]["range"] is None


def test_a_killed_process_loses_nothing_that_had_arrived(served, tmp_path, body):
    how, base = served
    how.pace = 0.02
    code = (
        "import dataclasses, importlib, sys\n"
        "from mpcwdwm.data import download, find_task\n"
        "importlib.import_module('mpcwdwm.data.download').BLOCK = 8192\n"
        "task = dataclasses.replace(find_task('hopper-medium-v2'), url=sys.argv[1])\n"
        "download(task, on_progress=lambda *a: print(*a, flush=True))\n"
    )
    url = task_at(base).url
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, env=os.environ) as process:
        for _ in range(3):
            assert process.stdout.readline()
        with pytest.raises(UserError, match="another process is downloading"):
            download(task_at(base))
        process.send_signal(signal.SIGKILL)
    part = tmp_path / "d4rl" / f"{NAME}.part"
    assert 16_384 <= part.stat().st_size < len(body)
    assert body.startswith(part.read_bytes())
    assert not (tmp_path / "d4rl" / NAME).exists()
    how.pace = 0.0
    resumed = part.stat().st_size
    assert download(task_at(base)).read_bytes() == body
    assert how.requests[-1]["range"] == f"bytes={resumed}-"


# ── What goes wrong ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_http_error_is_named_and_says_where_to_put_the_file(served, tmp_path, status):
    how, base = served
    how.status = status
    with pytest.raises(UserError) as caught:
        download(task_at(base))
    message = str(caught.value)
    assert f"HTTP {status}" in message
    assert f"{base}/gym_mujoco_v2/{NAME}" in message
    assert f"put the file at '{tmp_path / 'd4rl' / NAME}'" in message
    assert "\n" not in message
    assert left_over(tmp_path) == []
    assert len(how.requests) == (1 if status < 500 else module.ATTEMPTS)  # only what may pass is tried again


def test_offline_says_which_file_to_put_where(tmp_path):
    with pytest.raises(UserError) as caught:
        download(task_at(CLOSED))
    assert f"put the file at '{tmp_path / 'd4rl' / NAME}'" in str(caught.value)
    assert "refused" in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_log_in_page_is_not_taken_for_a_dataset(served, tmp_path):
    how, base = served
    how.body = b"<html>please log in</html>"
    with pytest.raises(UserError, match="<html>please"):
        download(task_at(base))
    assert left_over(tmp_path) == []


def test_a_body_cut_short_without_an_announced_length_is_noticed(served, body):
    how, base = served
    how.length = False
    how.breaks = [len(body) // 2]
    with pytest.raises(UserError, match="not a complete HDF5 file"):
        download(task_at(base))
    assert download(task_at(base)).read_bytes() == body


def test_a_folder_that_cannot_be_written_is_named(served, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "file" / "d4rl"))
    with pytest.raises(UserError, match="cannot write"):
        download(task_at(served[1]))


def test_nothing_is_downloaded_for_a_bundled_task():
    task = find_task("hopper-medium-replay-mini-ppo-v0")
    assert download(task) == dataset_path(task)


# ── Mirrors ───────────────────────────────────────────────────────────────────


def write_settings(tmp_path, text):
    path = tmp_path / "config" / "mpcwdwm" / "settings.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_mirrors_from_the_settings_are_asked_first(served, tmp_path, body):
    how, base = served
    write_settings(tmp_path, f"mirrors: ['{CLOSED}', '{base}/mirror/']\n")
    assert download(task_at(f"{base}/original")).read_bytes() == body
    assert [request["path"] for request in how.requests] == [f"/mirror/{NAME}"]


def test_the_original_is_asked_when_no_mirror_answers(served, body):
    how, base = served
    assert download(task_at(base), mirrors=[CLOSED]).read_bytes() == body
    assert [request["path"] for request in how.requests] == [f"/gym_mujoco_v2/{NAME}"]


def test_a_part_from_a_mirror_survives_a_failure_of_the_original(served, tmp_path, body):
    how, base = served
    how.breaks = [20_000, 0, 0]
    with pytest.raises(UserError, match="run the same command again"):
        download(task_at(CLOSED), mirrors=[base])
    how.requests.clear()
    assert download(task_at(CLOSED), mirrors=[base]).read_bytes() == body
    assert how.requests[0]["range"] == "bytes=20000-"


@pytest.mark.parametrize(
    "text",
    ["mirrors: http://x", "mirrors: [ftp://x]", "mirrors: [3]", "- http://x", "3", "mirrors: [", "mirrors: {a: b}"],
)
def test_unfit_settings_are_one_line_that_names_the_file(tmp_path, text):
    path = write_settings(tmp_path, text)
    with pytest.raises(UserError) as caught:
        mirrors_from_settings()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "other: 1\n", "mirrors: []\n", "mirrors:\n"])
def test_settings_without_mirrors_are_fine(tmp_path, text):
    write_settings(tmp_path, text)
    assert mirrors_from_settings() == []
