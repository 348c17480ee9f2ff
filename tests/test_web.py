"""The site of an exported file: what is written, what is refused, and what the server gives."""

import hashlib
import http.client
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from test_imports import loaded_after
from test_metadata import sealed

import deepspectrumlite
from deepspectrumlite import web
from deepspectrumlite.axes import NEAREST, axis_ticks, count_bands
from deepspectrumlite.config import parse_recipe
from deepspectrumlite.description import Description, read_description
from deepspectrumlite.errors import ModelError, WebError
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.metadata import write_metadata
from deepspectrumlite.serve import POLICY, open_server
from deepspectrumlite.stream_settings import StreamSettings
from deepspectrumlite.web import describe_page, write_site

ROOT = Path(__file__).parent.parent


def png(width, height):
    """A grey PNG."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes((width + 1) * height))),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A page in place of the real one, which is there only after `make web`."""
    folder = tmp_path / "built"
    contents = {
        "index.html": b"<!doctype html><title>A page</title>",
        "sw.js": b"self",
        "assets/main-1a2b.js": b"export {}",
        "icons/icon-192.png": png(192, 192),
        "icons/icon-maskable.png": png(512, 512),
        "icons/icon.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "icons/other.png": png(1, 1),
        "wasm/runtime.wasm": b"\0asm\1\0\0\0",
        "LICENSES.txt": b"Apache License",
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    monkeypatch.setattr(web, "BUILT", folder)
    return folder


@pytest.fixture
def site(built, exported, tmp_path):
    return write_site(exported, tmp_path / "site", title="Tones").folder


def changed(exported, path, **changes):
    """The exported file with another description."""
    shutil.copy(exported, path)
    values = json.loads(read_description(path).to_json()) | changes
    write_metadata(path, Description.from_json(json.dumps(values)))
    return path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def names(folder):
    return sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file())


def test_a_site_is_the_page_and_the_model(site, built, exported):
    added = ["files.json", "manifest.webmanifest", "model.json", "model.tflite"]
    assert names(site) == sorted(names(built) + added)
    for name in names(built):
        assert (site / name).read_bytes() == (built / name).read_bytes()
    assert (site / "model.tflite").read_bytes() == exported.read_bytes()


def test_the_page_knows_all_that_the_file_says(site, exported):
    about, described = read(site / "model.json"), json.loads(read_description(exported).to_json())
    page = about.pop("page")
    assert about == described
    assert (page["title"], page["file"], page["card"]) == ("Tones", exported.name, None)
    assert page["bytes"] == exported.stat().st_size
    assert (page["image"], page["image_shape"]) == (False, None)
    assert page["axis"]["seconds"] == 0.5
    expected = StreamSettings().to_json() | {
        "hop_seconds": 0.5,
        "hop_samples": 4000,
        "threshold": 0.5,
        "thresholds": {"high": 0.5, "low": 0.5, "noise": 0.5},
    }
    assert page["stream"] == expected


def test_the_title_is_the_name_of_the_file_unless_given(exported, tmp_path):
    path = shutil.copy(exported, tmp_path / "my tones.tflite")
    assert describe_page(Path(path))["page"]["title"] == "my tones"
    assert describe_page(Path(path), " A \n title ")["page"]["title"] == "A title"


def test_settings_of_the_file_are_filled_in(exported, tmp_path):
    stream = {"hop_seconds": 0.1, "thresholds": {"low": 0.9}, "ignore": ["noise"], "gate_db": -50}
    changes = {"output": "sigmoid", "thresholds": [0.2, 0.3, 0.4], "stream": stream}
    found = describe_page(changed(exported, tmp_path / "a.tflite", **changes))["page"]["stream"]
    assert found["thresholds"] == {"high": 0.2, "low": 0.9}
    assert (found["hop_samples"], found["hop_seconds"]) == (800, 0.1)
    assert (found["gate_db"], found["ignore"], found["threshold"]) == (-50, ["noise"], 0.5)
    assert StreamSettings.from_json({k: v for k, v in found.items() if k != "hop_samples"})
    numbers = {"output": "linear", "thresholds": []}
    found = describe_page(changed(exported, tmp_path / "b.tflite", **numbers))["page"]["stream"]
    assert found["thresholds"] == {}


def test_settings_that_do_not_fit_are_refused(exported, tmp_path, built):
    path = changed(exported, tmp_path / "a.tflite", stream={"hop_seconds": 0.6})
    with pytest.raises(ModelError, match=r"hop_seconds is 0\.6"):
        write_site(path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_list_of_files_is_complete_and_true(site):
    listed = read(site / "files.json")
    assert [file["path"] for file in listed["files"]] == [
        name for name in names(site) if name != "files.json"
    ]
    for file in listed["files"]:
        data = (site / file["path"]).read_bytes()
        assert file["bytes"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()


def test_another_model_is_another_version(site, exported, tmp_path):
    def version(**changes):
        path = changed(exported, tmp_path / "a.tflite", **changes)
        written = write_site(path, site, title="Tones", overwrite=True)
        return read(written.folder / "files.json")["version"]

    assert version() == version()
    assert version() != version(labels=["up", "down", "noise"])


def test_the_app_has_the_icons_of_the_page(site):
    found = read(site / "manifest.webmanifest")
    assert (found["name"], found["short_name"]) == ("Tones", "Tones")
    assert (found["display"], found["start_url"]) == ("standalone", "./")
    icons = {icon.pop("src"): icon for icon in found["icons"]}
    assert icons == {
        "icons/icon-192.png": {"sizes": "192x192", "type": "image/png", "purpose": "any"},
        "icons/icon-maskable.png": {"sizes": "512x512", "type": "image/png", "purpose": "maskable"},
        "icons/icon.svg": {"sizes": "any", "type": "image/svg+xml", "purpose": "any"},
    }
    assert web.app_manifest("Sounds of the drums", site)["short_name"] == "Sounds of t…"


def test_a_card_is_shown_as_it_is(built, exported, tmp_path):
    card = tmp_path / "model_card.md"
    card.write_text("# Töne\n<script>\n", encoding="utf-8")
    folder = write_site(exported, tmp_path / "site", card=card).folder
    assert read(folder / "model.json")["page"]["card"] == "# Töne\n<script>\n"


FRONT_ENDS = [
    {},
    {"n_mels": 40, "fmin": 100.0, "fmax": 3500.0},
    {"frequency": "linear", "fmin": 300.0, "fmax": 3400.0},
    {"frequency": "linear"},
]


@pytest.mark.parametrize("section", FRONT_ENDS)
def test_a_tone_is_where_its_tick_is(section):
    data = {"sample_rate": 8000, "segment_seconds": 0.5, "hop_seconds": 0.5}
    recipe = parse_recipe({"data": data, "frontend": section | {"image_height": 400}})
    frontend = FrontEnd(recipe.frontend, recipe.data)
    assert count_bands(recipe.frontend, recipe.data) == frontend.n_bands
    ticks = axis_ticks(recipe.frontend, recipe.data)
    assert len(ticks) >= 3
    for place, name in ticks:
        number, unit = name.split()
        hertz = float(number) * {"Hz": 1, "kHz": 1000}[unit]
        if hertz < 100:
            continue  # between the first two bins
        tone = np.sin(2 * np.pi * hertz * np.arange(4000) / 8000).astype(np.float32)
        image = frontend(torch.from_numpy(tone)[None])[0].numpy()
        # The colour map's last entry, yellow, has the most green.
        row = image[1].mean(axis=1).argmax()
        assert 1 - (row + 0.5) / 400 == pytest.approx(place, abs=1.2 / frontend.n_bands)


def test_ticks_have_room_and_mfccs_have_numbers():
    recipe = parse_recipe({"data": {"sample_rate": 96_000}})
    places = [place for place, _ in axis_ticks(recipe.frontend, recipe.data)]
    assert min(np.diff(places)) > NEAREST
    recipe = parse_recipe({"frontend": {"n_mfcc": 13}})
    found = axis_ticks(recipe.frontend, recipe.data)
    assert found[0] == (0.5 / 13, "MFCC 0")
    assert found[-1] == (12.5 / 13, "MFCC 12")


def test_without_the_page_one_line_says_what_to_do(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "BUILT", tmp_path / "nothing")
    with pytest.raises(WebError, match=r"not built here; in a clone, `make web`") as caught:
        write_site(exported, tmp_path / "site")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_models_are_refused(built, exported_onnx, trained, tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"\0" * 100)
    for source, message in (
        (exported_onnx, r"a \.onnx file; allowed: \.tflite"),
        (trained, r"a folder; allowed: a \.tflite file; .*deepspectrumlite export"),
        (tmp_path / "broken.tflite", "broken"),
        (tmp_path / "none.tflite", "cannot be read"),
    ):
        with pytest.raises(ModelError, match=message):
            write_site(source, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_odd_titles_and_cards_are_refused(built, exported, tmp_path):
    (tmp_path / "card.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long.md").write_bytes(b"a" * (2**20 + 1))
    for options, message in (
        ({"title": " "}, "--title is empty"),
        ({"card": tmp_path / "none.md"}, r"none\.md: cannot be read \(No such file"),
        ({"card": tmp_path / "card.md"}, "not text in UTF-8"),
        ({"card": tmp_path / "long.md"}, "larger than 1 MB"),
    ):
        with pytest.raises(WebError, match=message):
            write_site(exported, tmp_path / "site", **options)


def test_what_is_no_site_is_never_replaced(built, exported, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name, message in (("file", "a file; choose"), ("mine", "other files in it")):
        for overwrite in (False, True):
            with pytest.raises(WebError, match=message):
                write_site(exported, tmp_path / name, overwrite=overwrite)
    assert names(tmp_path / "mine") == ["index.html"]
    assert write_site(exported, tmp_path / "empty").folder == tmp_path / "empty"
    with pytest.raises(WebError, match=r"file/site: cannot be written"):
        write_site(exported, tmp_path / "file" / "site")


def test_a_site_is_replaced_when_asked_for(site, exported):
    with pytest.raises(WebError, match="a site is there already; give --overwrite"):
        write_site(exported, site)
    forget(site, "assets/of-before.js")
    before = set(site.parent.iterdir())
    # Also from the model in the site itself.
    written = write_site(site / "model.tflite", site, title="New", overwrite=True)
    assert "assets/of-before.js" not in names(site)
    assert read(site / "model.json")["page"]["title"] == "New"
    assert set(site.parent.iterdir()) == before
    assert written.bytes == sum((site / name).stat().st_size for name in names(site))


def forget(site, name):
    """A file that the site had, and the new page has no more."""
    (site / name).write_text("old")
    listed = read(site / "files.json")
    listed["files"].append({"path": name})
    (site / "files.json").write_text(json.dumps(listed))


@pytest.fixture
def mine(site):
    """A site in a checkout, with files that are not of it."""
    contents = {
        ".git/config": "[core]",
        "CNAME": "sounds.example",
        "assets/mine.css": "mine",
        "pictures/mine.txt": "mine",
    }
    for name, text in contents.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    # Git takes a folder without it for none of its own.
    (site / ".git" / "refs").mkdir()
    (site / "link").symlink_to("pictures", target_is_directory=True)
    return contents


def test_what_is_not_of_the_site_stays(site, mine, exported):
    forget(site, "assets/of-before.js")
    beside = set(site.parent.iterdir())
    written = write_site(exported, site, title="New", overwrite=True)
    assert read(site / "model.json")["page"]["title"] == "New"
    assert {name: (site / name).read_text() for name in mine} == mine
    assert (site / ".git" / "refs").is_dir()
    assert (site / "link").is_symlink()
    assert not (site / "assets" / "of-before.js").exists()
    # Neither kept by the page, nor counted, nor lying about beside it.
    assert not set(mine) & {file["path"] for file in read(site / "files.json")["files"]}
    own = set(names(site)) - set(mine) - {"link/mine.txt"}
    assert written.bytes == sum((site / name).stat().st_size for name in own)
    assert set(site.parent.iterdir()) == beside


def test_a_site_in_a_linked_folder_is_replaced_where_it_lies(site, exported, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(site, target_is_directory=True)
    write_site(exported, link, title="New", overwrite=True)
    assert link.is_symlink()
    assert read(site / "model.json")["page"]["title"] == "New"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": [1]}', '{"files": 1}'])
def test_a_site_without_its_list_is_not_replaced(site, mine, exported, content):
    (site / "files.json").write_text(content)
    before = names(site)
    with pytest.raises(WebError, match=r"files\.json: not a list of the site's files"):
        write_site(exported, site, overwrite=True)
    assert names(site) == before


def test_a_file_that_is_in_the_way_is_not_replaced(site, built, exported):
    (site / "robots.txt").write_text("mine")
    (built / "robots.txt").write_text("ours")
    with pytest.raises(WebError, match=r"robots\.txt: not of the old site, .*; move it away"):
        write_site(exported, site, title="New", overwrite=True)
    assert (site / "robots.txt").read_text() == "mine"
    assert read(site / "model.json")["page"]["title"] == "Tones"


def test_the_old_site_comes_back_where_the_new_one_cannot_be_put(site, mine, exported, monkeypatch):
    beside, move = set(site.parent.iterdir()), Path.replace

    def fail(path, target):
        if path.name == "new":
            raise OSError(16, "Device or resource busy")
        return move(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(WebError, match="Device or resource busy"):
        write_site(exported, site, title="New", overwrite=True)
    assert read(site / "model.json")["page"]["title"] == "Tones"
    assert {name: (site / name).read_text() for name in mine} == mine
    assert set(site.parent.iterdir()) == beside


def test_what_cannot_be_kept_is_never_thrown_away(site, mine, exported, monkeypatch):
    move = Path.replace

    def fail(path, target):
        if path.name == "CNAME":
            raise OSError(28, "No space left on device")
        return move(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(
        WebError, match=r"CNAME: cannot be kept \(No space .*; it lies in"
    ) as caught:
        write_site(exported, site, overwrite=True)
    assert Path(str(caught.value).rpartition(" lies in ")[2]).read_text() == mine["CNAME"]


def test_a_site_that_cannot_be_replaced_stays(site, exported, monkeypatch):
    before = read(site / "files.json")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(web, "_write_json", full)
    with pytest.raises(WebError, match=r"cannot be written \(No space left on device\)"):
        write_site(exported, site, overwrite=True)
    assert read(site / "files.json") == before
    assert not list(site.parent.glob(".site-*"))


def test_neither_needs_the_training_side(site, exported, tmp_path):
    code = (
        "from pathlib import Path; from deepspectrumlite import web, serve; "
        f"web.BUILT = Path('{site}'); web.write_site(Path('{exported}'), Path('{tmp_path}/b')); "
        f"serve.open_server(Path('{tmp_path}/b'), port=0).server_close()"
    )
    assert loaded_after(code) == []


@pytest.fixture
def served(site):
    """The port of a running server, and its site."""
    server = open_server(site, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], site
    server.shutdown()
    server.server_close()
    thread.join()


def ask(port, path, method="GET", headers=None):
    """As it is: no client that tidies up the path first."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html?x=1", "text/html; charset=utf-8"),
        ("/assets/main-1a2b.js", "text/javascript; charset=utf-8"),
        ("/wasm/runtime.wasm", "application/wasm"),
        ("/manifest.webmanifest", "application/manifest+json"),
        ("/model.tflite", "application/octet-stream"),
        ("/model.json", "application/json"),
        ("/icons/icon.svg", "image/svg+xml"),
        ("/LICENSES.txt", "text/plain; charset=utf-8"),
    ],
)
def test_files_come_with_their_type_and_the_headers_for_threads(served, path, kind):
    port, site = served
    answer, body = ask(port, path)
    name = path.partition("?")[0].strip("/") or "index.html"
    assert (answer.status, body) == (200, (site / name).read_bytes())
    found = {
        "Content-Type": kind,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
    }
    assert {key: answer.headers[key] for key in found} == found
    head, nothing = ask(port, path, "HEAD")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Length"] == str(len(body))


def test_the_policy_is_that_of_the_page_and_of_the_docs():
    page = (ROOT / "web" / "index.html").read_text()
    policy, own = POLICY.rsplit("; ", 1)
    assert f'content="{policy}"' in page
    assert own == "frame-ancestors 'none'"
    assert f"Content-Security-Policy: {POLICY}\n" in (ROOT / "docs" / "web.md").read_text()


def test_the_licences_of_what_is_linked_are_named():
    notice = (ROOT / "web" / "NOTICE.txt").read_text()
    for name in ("XNNPACK", "BSD-3-Clause", "Eigen", "MPL-2.0", "Abseil", "Apache-2.0"):
        assert name in notice
    real = Path(deepspectrumlite.__file__).parent / "web_site" / "LICENSES.txt"
    if real.is_file():
        assert notice in real.read_text()


def test_nothing_else_is_served(served):
    port, site = served
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("secret")
    (site.parent / "secret").write_text("secret")
    (site / "link").symlink_to(site.parent / "secret")
    (site / "folder").symlink_to(site.parent)
    paths = ("/assets/", "/assets", "/none", "/../secret", "/%2e%2e/secret", "/..%2fsecret")
    for path in (
        *paths,
        "/link",
        "/folder/secret",
        "/assets/../../secret",
        "/%00",
        "/model.json/",
        "/.git/config",
    ):
        answer, body = ask(port, path)
        assert answer.status == 404, path
        assert b"secret" not in body.replace(path.encode(), b"")
    assert ask(port, "/", "POST")[0].status == 501


def test_a_new_site_is_never_taken_for_the_old_one(served, exported):
    port, site = served
    first = ask(port, "/model.json")[0].headers
    known = {"If-None-Match": first["ETag"], "If-Modified-Since": first["Last-Modified"]}
    answer, body = ask(port, "/model.json", headers=known)
    assert (answer.status, body) == (304, b"")
    write_site(exported, site, title="Other", overwrite=True)
    answer, body = ask(port, "/model.json", headers=known)
    assert answer.status == 200
    assert json.loads(body)["page"]["title"] == "Other"
    assert ask(port, "/none")[0].headers["ETag"] is None


def test_a_server_that_cannot_start_says_why(site, tmp_path):
    with pytest.raises(WebError, match=r"no site there; write one with: deepspectrumlite web"):
        open_server(tmp_path, port=0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(WebError, match=rf"port {port}: cannot be had \(Address already in use"):
            open_server(site, port=port)
    with pytest.raises(WebError, match=r"no\.such\.host\.invalid, port 0: cannot be had"):
        open_server(site, "no.such.host.invalid", 0)


def test_the_commands(run, built, exported, tmp_path):
    out = tmp_path / "site"
    code, text, errors = run("web", exported, "--out", out, "--title", "Tones")
    assert (code, len(errors)) == (0, 1)
    assert "export it with --image" in errors[0]
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert text.startswith(f"Site: {out} ({size / 1e6:.1f} MB)")
    code, _, errors = run("web", exported, "--out", out)
    assert (code, len(errors)) == (1, 1)
    assert "--overwrite" in errors[0]
    assert run("web", exported, "--out", out, "--overwrite")[0] == 0
    code, _, errors = run("serve", tmp_path)
    assert (code, len(errors)) == (1, 1)
    assert "no site there" in errors[0]


def test_serve_runs_until_it_is_interrupted(start, site):
    process = start("serve", site, "--port", 0)
    deadline = time.monotonic() + 60
    while not (text := process.stdout_path.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr_path.read_text()
        time.sleep(0.05)
    assert text.startswith("http://localhost:")
    url = text.split()[0].replace("localhost", "127.0.0.1")
    with urllib.request.urlopen(f"{url}model.json") as answer:
        assert json.load(answer)["labels"] == ["high", "low", "noise"]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert process.stdout_path.read_text().endswith("Stopped.\n")
    assert process.stderr_path.read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("is_built", [True, False])
def test_a_wheel_holds_the_page_where_it_was_built(built, tmp_path, is_built):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "web_site")
    shutil.copytree(ROOT / "deepspectrumlite", source / "deepspectrumlite", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    if is_built:
        real = Path(deepspectrumlite.__file__).parent / "web_site"
        page = real if (real / "index.html").is_file() else built
        shutil.copytree(page, source / "deepspectrumlite" / "web_site")
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [wheel] = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if "/web_site/" in name}
        prefix = "deepspectrumlite/web_site/"
        if not is_built:
            assert packed == set()
            return
        assert packed == {prefix + name for name in names(page)}
        assert any(name.endswith(".wasm") for name in packed)
        assert b"Apache License" in archive.read(f"{prefix}LICENSES.txt")
        archive.extractall(tmp_path / "installed")
    assert (tmp_path / "installed" / prefix / "index.html").is_file()


def test_the_model_of_a_site_is_whole(site):
    assert sealed(site / "model.tflite")["bytes"] < (site / "model.tflite").stat().st_size
    assert read_description(site / "model.tflite").labels == ["high", "low", "noise"]
