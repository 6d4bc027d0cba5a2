"""The miniature world: everything that it does not hold is refused by name, and what it holds is built once and kept.

What each family holds is used in its own file, tests/test_offline_<family>.py. The functions `inside_…` run in a
process inside the world and return facts; the tests judge the facts.
"""
from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.offline import archives, needs
from tests.offline.families.__main__ import logged
from tests.offline.trial import facts_of, python, world_of

ROOT = archives.ROOT
README = "tests/offline/README.md"
HELD = ("hub_datasets", "transformers_models", "ultralytics_files")  # families beside which others are missed


# --- running things inside --------------------------------------------------------------------------------------------

world = world_of(*HELD)


@pytest.fixture(scope="module")
def facts(world):
    """`facts("name")`: what the function `inside_name` returns when it runs in the world (once)."""
    @functools.cache
    def ask(name: str):
        return facts_of(python(world, f"""
            import json
            from tests import test_offline
            print("facts:" + json.dumps(test_offline.inside_{name}()))
        """, MCVP_OFFLINE_LOG=f"{name}.log"))
    return ask


def outcome(call) -> str:
    """`ok` or the exception of a call, as `Type: message`."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def misses(calls: dict) -> dict[str, dict]:
    """Of each call, by the name that its refusal must hold: the outcome, and what it added to the log."""
    found = {}
    for name, call in calls.items():
        before = len(logged())
        found[name] = {"outcome": outcome(call), "logged": logged()[before:]}
    return found


def not_refused(found: dict[str, dict]) -> list[str]:
    """What is wrong with the outcome of `misses`; empty where every call was refused, named, pointed on and logged."""
    wrong = []
    for name, miss in found.items():
        if name not in miss["outcome"] or README not in miss["outcome"]:
            wrong.append(f"{name}: {miss['outcome'][:300]}")
        if not any(name in line for line in miss["logged"]):
            wrong.append(f"{name}: not logged, only {miss['logged']}")
    return wrong


# --- what the libraries are refused -----------------------------------------------------------------------------------

def inside_torchvision_data() -> dict:
    import torch
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    root = Path(torch.hub.get_dir()) / "datasets"
    root.mkdir(parents=True, exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory() as outside:
        files = [root / "inside.bin", Path(outside) / "outside.bin"]
        for file in files:
            file.write_bytes(b"x")
        found["md5"] = [check_integrity(path, "0" * 32) for path in (*files, root / "absent.bin")]
    found["misses"] = misses({
        "kmnist": lambda: datasets.KMNIST(root, download=True),
        "cifar-100-python.tar.gz": lambda: datasets.CIFAR100(root, download=True),
        "country211": lambda: datasets.Country211(root, download=True),
    })
    return found


def test_md5_is_waived_only_inside_the_world(facts):
    assert facts("torchvision_data")["md5"] == [True, False, False]  # inside, outside, absent


def inside_weights() -> dict:
    import torch
    from torchvision import models

    return {"misses": misses({
        "resnet101-": lambda: models.resnet101(weights="DEFAULT"),
        "x-123.pth": lambda: torch.hub.load_state_dict_from_url("https://example.org/x-123.pth"),
        "github.com/facebookresearch/dinov2": lambda: torch.hub.load("facebookresearch/dinov2", "dinov2_vits14"),
    })}


def inside_hub() -> dict:
    import diffusers
    import huggingface_hub
    import timm
    import transformers

    vit = "google/vit-base-patch16-224"
    found = {"misses": misses({
        "timm/resnet34.a1_in1k": lambda: timm.create_model("resnet34.a1_in1k", pretrained=True),
        "facebook/dinov2-base": lambda: transformers.AutoModel.from_pretrained("facebook/dinov2-base"),
        "bert-base-uncased": lambda: transformers.AutoTokenizer.from_pretrained("bert-base-uncased"),
        "microsoft/resnet-50": lambda: transformers.pipeline("image-classification", model="microsoft/resnet-50"),
        "Salesforce/blip2-opt-2.7b": lambda: transformers.AutoProcessor.from_pretrained("Salesforce/blip2-opt-2.7b"),
        f"{vit} at revision v9": lambda: transformers.ViTModel.from_pretrained(vit, revision="v9"),
        "acme/model": lambda: huggingface_hub.hf_hub_download("acme/model", "weights.bin"),
        "acme/data": lambda: huggingface_hub.hf_hub_download(repo_id="acme/data", filename="a.csv",
                                                             repo_type="dataset"),
        "acme/whole": lambda: huggingface_hub.snapshot_download("acme/whole"),
        "acme/about": lambda: huggingface_hub.model_info("acme/about"),
        "stabilityai/sdxl-turbo": lambda: diffusers.AutoPipelineForText2Image.from_pretrained("stabilityai/sdxl-turbo"),
        "acme/unet": lambda: diffusers.UNet2DConditionModel.from_pretrained("acme/unet", subfolder="unet"),
        "acme/steps": lambda: diffusers.DDPMScheduler.from_pretrained("acme/steps", subfolder="scheduler"),
        "cat.png": lambda: diffusers.utils.load_image("https://huggingface.co/x/cat.png"),
    })}
    found["lacks"] = [outcome(lambda: huggingface_hub.hf_hub_download(vit, "nothing.json")),
                      outcome(lambda: huggingface_hub.list_repo_files(vit))]
    return found


def test_a_file_that_a_held_repository_lacks_is_named(facts):
    missing, listing = facts("hub")["lacks"]
    assert "nothing.json" in missing and "google/vit-base-patch16-224" in missing and README in missing
    assert "google/vit-base-patch16-224" in listing and README in listing


def inside_hub_datasets() -> dict:
    from datasets import load_dataset, load_dataset_builder

    return {"misses": misses({
        "food101": lambda: load_dataset("food101"),
        "ylecun/mnist": lambda: load_dataset("ylecun/mnist", split="train"),
        "acme/words": lambda: load_dataset_builder("acme/words"),
    })}


def inside_ultralytics() -> dict:
    import gymnasium
    from ultralytics import YOLO

    cart = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    cart.reset(seed=0)
    return {"frame": list(cart.render().shape), "misses": misses({
        "yolov9c.pt": lambda: YOLO("yolov9c.pt"),
        "coco128": lambda: YOLO("yolov8n.pt").train(data="coco128.yaml", epochs=1, device="cpu"),
        "bus.jpg": lambda: YOLO("yolov8n.pt")("https://ultralytics.com/images/bus.jpg"),
    })}


def test_gymnasium_renders_without_a_screen(facts):
    height, width, channels = facts("ultralytics")["frame"]
    assert height > 100 and width > 100 and channels == 3


@pytest.mark.parametrize("group", ["torchvision_data", "weights", "hub", "hub_datasets", "ultralytics", "network",
                                   "urls"])
def test_what_the_world_lacks_is_refused_by_name(facts, group):
    assert not_refused(facts(group)["misses"]) == []


def inside_network() -> dict:
    import asyncio
    import urllib.request

    import httpx
    import pandas
    import requests
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    async def asynchronous():
        async with httpx.AsyncClient() as client:
            await client.get("https://example.org/asynchronous")

    def child():
        code = "import urllib.request as u; u.urlopen('https://example.org/child')"
        run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        if run.returncode:
            raise ConnectionError(run.stderr)

    def install():
        command = [sys.executable, "-m", "pip", "download", "--no-cache-dir", "--disable-pip-version-check",
                   "no-such-package"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            raise ConnectionError(run.stdout)

    found = {"misses": misses({
        "https://example.org/urllib": lambda: urllib.request.urlopen("https://example.org/urllib"),
        "https://example.org/requests": lambda: requests.get("https://example.org/requests"),
        "https://example.org/httpx": lambda: httpx.get("https://example.org/httpx"),
        "https://example.org/asynchronous": lambda: asyncio.run(asynchronous()),
        "https://example.org/table.csv": lambda: pandas.read_csv("https://example.org/table.csv"),
        "https://example.org/child": child,
        "no-such-package": install,
        "the host example.org": lambda: socket.create_connection(("example.org", 80)),
        "the host 192.0.2.7": lambda: socket.create_connection(("192.0.2.7", 80)),
        "the host 192.0.2.8": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.8", 53)),
        "the host 2001:db8::1": lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
        "the host lookup.example": lambda: socket.gethostbyname("lookup.example"),
    })}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = logged()
    app = FastAPI()
    app.get("/")(lambda: "app")
    found["open"] = [urllib.request.urlopen(f"http://{host}:{server.server_port}").read().decode()
                     for host in ("127.0.0.1", "localhost")]
    found["open"] += [requests.get(f"http://localhost:{server.server_port}").text,
                      httpx.get(f"http://127.0.0.1:{server.server_port}").text,
                      TestClient(app).get("/").json(), outcome(lambda: socket.getaddrinfo(None, 80)),
                      outcome(lambda: socket.gethostbyname("localhost"))]
    found["logged while open"] = logged()[len(before):]
    server.shutdown()
    return found


def inside_urls() -> dict:
    import urllib.request

    import pandas
    import requests
    import torch
    from torchvision.datasets.utils import download_url

    home = Path(os.environ["MCVP_OFFLINE_URLS"])
    for name in ("example.org/data/a table.csv", "example.org/secret.txt"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"a,b\n1,2\n")
    (home.parent / "outside.txt").write_text("not to be served")
    url, before, found = "https://example.org/data/a%20table.csv", logged(), {}
    with tempfile.TemporaryDirectory() as folder:
        torch.hub.download_url_to_file(url, f"{folder}/hub.csv", progress=False)
        download_url(url.replace("https", "http"), folder, "torchvision.csv")
        urllib.request.urlretrieve(url, f"{folder}/retrieved.csv")
        found["files"] = {path.name: path.read_text() for path in Path(folder).iterdir()}
    found["requests"] = [requests.get(url).text, requests.get(url, stream=True).raw.read().decode(),
                         b"".join(requests.get(url, stream=True).iter_content(3)).decode()]
    found["head"] = requests.head(url).headers["content-length"]
    found["pandas"] = pandas.read_csv(url).to_dict("list")
    found["logged"] = logged()[len(before):]
    found["misses"] = misses({
        "https://example.org/data/other.csv": lambda: urllib.request.urlopen("https://example.org/data/other.csv"),
        "https://example.org/data": lambda: urllib.request.urlopen("https://example.org/data"),
        "https://example.org/../../outside": lambda: urllib.request.urlopen("https://example.org/../../outside.txt"),
        "https://example.com/secret.txt": lambda: urllib.request.urlopen("https://example.com/secret.txt"),
    })
    return found


def test_a_url_that_the_world_holds_is_answered_whichever_library_asks(facts):
    found, text = facts("urls"), "a,b\n1,2\n"
    assert found["files"] == {"hub.csv": text, "torchvision.csv": text, "retrieved.csv": text}
    assert found["requests"] == [text] * 3 and found["head"] == "8" and found["pandas"] == {"a": [1], "b": [2]}
    assert found["logged"] == []


def test_loopback_and_in_process_servers_stay_open(facts):
    assert facts("network")["open"] == ["hello"] * 4 + ["app", "ok", "ok"]
    assert facts("network")["logged while open"] == []


def test_a_program_that_is_not_python_is_sent_to_a_dead_proxy(world):
    run = python(world, """
        import os, urllib.request
        assert {urllib.request.getproxies()[scheme] for scheme in ("http", "https")} == {os.environ["HTTPS_PROXY"]}
        assert urllib.request.proxy_bypass("localhost") and urllib.request.proxy_bypass("127.0.0.1")
        import socket
        socket.create_connection(("127.0.0.1", 9))
    """)
    assert run.returncode == 1 and "NotInTheWorld" in run.stderr and "proxy" in run.stderr


def test_a_swallowed_refusal_is_logged_with_its_notebook(world, tmp_path):
    log = tmp_path / "refused.log"
    run = python(world, """
        import urllib.request
        try:
            urllib.request.urlopen("https://example.org/a")
        except Exception:
            print("swallowed")
    """, MCVP_OFFLINE_LOG=str(log), MCVP_NOTEBOOK="Chapter01/Gradient_descent.ipynb")
    assert run.stdout.strip() == "swallowed" and run.returncode == 0
    assert log.read_text(encoding="utf-8") == "Chapter01/Gradient_descent.ipynb\thttps://example.org/a\n"


def test_the_sitecustomize_it_hides_still_runs(world, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('the hidden one')\n")
    code = "import socket; socket.getaddrinfo('example.org', 80)"
    path = os.pathsep.join([world["PYTHONPATH"], str(tmp_path)])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={**os.environ, **world, "PYTHONPATH": path})
    assert run.stdout == "the hidden one\n" and "NotInTheWorld" in run.stderr
    run = subprocess.run([sys.executable, "-c", "import sys; print('mcvp_guard' in sys.modules)"], capture_output=True,
                         text=True,
                         env={**os.environ, **world, "PYTHONPATH": path, "MCVP_OFFLINE": "0"})
    assert run.stdout == "the hidden one\nFalse\n"


def test_ray_asks_no_cloud_and_its_processes_build_no_grammar(world, tmp_path):
    log = tmp_path / "log"
    run = python(world, """
        from ray._common.usage.usage_lib import get_cloud_from_metadata_requests
        print(get_cloud_from_metadata_requests())
    """, MCVP_OFFLINE_LOG=str(log))
    assert run.stdout == "unknown\n" and not log.exists()
    program = tmp_path / "site-packages" / "ray" / "worker.py"
    program.parent.mkdir(parents=True)
    program.write_text("import sys; print(sys.modules.get('rfc3987_syntax', 'free'))")
    for path, expected in ((program, "None\n"), (shutil.copy(program, tmp_path / "worker.py"), "free\n")):
        run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env={**os.environ, **world})
        assert run.stdout == expected, run.stderr


# --- building and keeping ---------------------------------------------------------------------------------------------

@pytest.fixture
def families(tmp_path, monkeypatch):
    """Two families of one small file each, instead of the real ones; `families("name")` counts the builds of one."""
    folder, counts, cache = tmp_path / "families", tmp_path / "counts", tmp_path / "cache"
    counts.mkdir()
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(textwrap.dedent(f"""
            import os
            from pathlib import Path

            def build(root):
                (root / "data").mkdir()
                (root / "data" / "{name}.bin").write_bytes(b"{name}" * 5000)
                with open(Path({str(counts)!r}) / "{name}", "a") as file:
                    file.write("x")
        """))
    monkeypatch.setattr(archives, "FAMILIES", folder)
    monkeypatch.setenv("MCVP_CACHE", str(cache))

    def count(name: str) -> int:
        return (counts / name).stat().st_size if (counts / name).exists() else 0
    count.folder, count.cache = folder, cache
    return count


def held(scratch: Path) -> dict[str, bytes]:
    """The files below a folder, by name."""
    return {path.name: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}


WHOLE = {"one.bin": b"one" * 5000, "two.bin": b"two" * 5000}


def test_each_family_is_built_once_and_unpacked_often(families, tmp_path):
    for number in range(3):
        archives.unpack_all(tmp_path / f"world{number}", archives.families())
        assert held(tmp_path / f"world{number}") == WHOLE
    assert (families("one"), families("two")) == (1, 1)
    (tmp_path / "world0/data/one.bin").write_bytes(b"changed by a notebook")
    archives.unpack_all(tmp_path / "world0", archives.families())
    assert held(tmp_path / "world0") == WHOLE


def test_only_what_is_wanted_is_built_and_unpacked(families, tmp_path):
    archives.unpack_all(tmp_path / "world", ["two"])
    assert held(tmp_path / "world") == {"two.bin": WHOLE["two.bin"]} and (families("one"), families("two")) == (0, 1)
    archives.unpack_all(tmp_path / "none", [])
    assert not (tmp_path / "none").exists() or held(tmp_path / "none") == {}


def test_a_changed_source_rebuilds_its_family_only(families, tmp_path):
    archives.unpack_all(tmp_path / "world", archives.families())
    with open(families.folder / "one.py", "a") as file:
        file.write("# changed\n")
    archives.unpack_all(tmp_path / "world", archives.families())
    assert (families("one"), families("two")) == (2, 1)


def test_another_version_of_a_library_rebuilds_the_families_that_use_it(monkeypatch):
    before = {family: archives.key(family) for family in archives.families()}
    assert before == {family: archives.key(family) for family in archives.families()}
    real = archives.version
    monkeypatch.setattr(archives, "version", lambda library: "next" if library == "ultralytics" else real(library))
    assert [family for family in before if archives.key(family) != before[family]] == ["ultralytics_files"]


def test_a_family_is_made_of_all_that_it_imports():
    files, libraries = archives.sources_and_libraries(archives.FAMILIES / "torchvision_data.py")
    names = {file.name for file in files}
    assert {"torchvision_data.py", "garments.py", "canvas.py", "photos.py"} <= names and "hub.py" not in names
    assert {"numpy", "PIL", "skimage", "sklearn", "matplotlib"} <= set(libraries) and "pickle" not in libraries
    for family in archives.families():
        for library in archives.sources_and_libraries(archives.FAMILIES / f"{family}.py")[1]:
            assert archives.version(library) != "absent", f"{family} imports {library}, which nothing brings"


def test_a_version_is_that_of_all_that_bring_an_import(monkeypatch):
    monkeypatch.setattr(archives, "distributions", lambda: {"cv2": ["opencv-headless", "opencv-python"]})
    monkeypatch.setattr(archives.metadata, "version", {"opencv-headless": "4.1", "opencv-python": "5.0"}.get)
    assert archives.version("cv2") == "4.1 5.0" and archives.version("no_such_module") == "absent"


def damage_middle(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    path.write_bytes(whole)


@pytest.mark.parametrize("damage", [damage_middle, lambda path: path.write_bytes(path.read_bytes()[:-300]),
                                    lambda path: path.write_bytes(b""), lambda path: path.unlink()],
                         ids=["one byte", "cut off", "empty", "gone"])
def test_a_damaged_archive_is_built_again(families, tmp_path, damage):
    archives.unpack_all(tmp_path / "world", archives.families())
    damage(archives.archive("two"))
    archives.unpack_all(tmp_path / "again", archives.families())
    assert held(tmp_path / "again") == WHOLE
    assert (families("one"), families("two")) == (1, 2)


def test_no_damaged_byte_passes_for_good(families, tmp_path):
    archives.unpack_all(tmp_path / "world", archives.families())
    whole = archives.archive("one").read_bytes()
    rng, damaged = np.random.default_rng(0), tmp_path / "damaged.zip"
    ends = [*range(60), *range(len(whole) - 120, len(whole))]  # where the structure is
    for at in [*ends, *rng.integers(0, len(whole), 60)]:
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1:])
        if archives.unpack(damaged, tmp_path / f"at{at}"):
            assert held(tmp_path / f"at{at}") == {"one.bin": WHOLE["one.bin"]}, at


def test_a_failing_build_says_why_and_leaves_nothing(families, tmp_path):
    good = (families.folder / "two.py").read_text()
    (families.folder / "two.py").write_text(good + "    raise RuntimeError('the drawing went wrong')\n")
    with pytest.raises(archives.BuildError, match="(?s)building two failed.*the drawing went wrong"):
        archives.unpack_all(tmp_path / "world", archives.families())
    assert not archives.archive("two").exists()
    (families.folder / "two.py").write_text(good)
    archives.unpack_all(tmp_path / "world", archives.families())
    assert held(tmp_path / "world") == WHOLE and families("one") == 1
    assert list(families.cache.glob(f"*{archives.BUILDING}")) == []


def test_a_source_that_changes_during_the_build_does_not_stop_it(families, tmp_path):
    source = families.folder / "one.py"
    source.write_text(source.read_text() + "    Path(__file__).open('a').write('# an editor saves this file')\n")
    archives.unpack_all(tmp_path / "world", ["one"])
    assert held(tmp_path / "world") == {"one.bin": WHOLE["one.bin"]}


PREPARE = """
import sys
from pathlib import Path
from tests.offline import archives
archives.FAMILIES = Path(sys.argv[1])
archives.unpack_all(Path(sys.argv[2]), archives.families())
"""


def preparing(families, scratch: Path) -> subprocess.Popen:
    """Another process that lays out the two families."""
    return subprocess.Popen([sys.executable, "-c", PREPARE, str(families.folder), str(scratch)], cwd=ROOT,
                            stderr=subprocess.DEVNULL)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_build_leaves_no_half_world(families, tmp_path):
    good = (families.folder / "two.py").read_text()
    (families.folder / "two.py").write_text(good + "    import time; time.sleep(60)\n")
    process = preparing(families, tmp_path / "world")
    until = time.monotonic() + 30
    while not families("two"):  # its file is written, its archive is not
        assert time.monotonic() < until, "the build did not start"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not archives.archive("two").exists() and list(families.cache.glob(f"*{archives.BUILDING}"))
    (families.folder / "two.py").write_text(good)
    archives.unpack_all(tmp_path / "again", archives.families())
    assert held(tmp_path / "again") == WHOLE
    assert list(families.cache.glob(f"*{archives.BUILDING}")) == []


def test_processes_at_once_build_once(families, tmp_path):
    running = [preparing(families, tmp_path / f"world{number}") for number in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (families("one"), families("two")) == (1, 1)
    assert all(held(tmp_path / f"world{number}") == WHOLE for number in range(3))


def test_old_archives_are_cleaned_up(families, tmp_path):
    for number in range(archives.KEPT + 3):
        (families.folder / "one.py").write_text((families.folder / "one.py").read_text() + f"# {number}\n")
        archives.unpack_all(tmp_path / "world", archives.families())
        os.utime(archives.archive("one"), (number, number))
    archives.unpack_all(tmp_path / "world", archives.families())
    kept = sorted(families.cache.glob("one-*.zip"))
    assert len(kept) == archives.KEPT and archives.archive("one") in kept
    assert len(list(families.cache.glob("two-*.zip"))) == 1 and families("two") == 1


def test_the_cache_can_be_put_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MCVP_CACHE", str(tmp_path))
    assert archives.folder() == tmp_path
    monkeypatch.delenv("MCVP_CACHE")
    assert archives.folder().is_absolute() and archives.folder() != tmp_path


WINDOWS_PATH = 259  # characters
WINDOWS_CACHE = len(r"C:\Users\ twenty-five characters \AppData\Local\mcvp-offline\Cache")


def test_paths_are_short_enough_for_windows(world):
    within = len(f"/xxxxxxxx{archives.BUILDING}/w/")  # what build puts between the cache and a file
    longest = {}
    for built in filter(Path.exists, map(archives.archive, archives.families())):
        with zipfile.ZipFile(built) as file:
            longest[built.stem] = max(file.namelist(), key=len)
    assert longest and all(WINDOWS_CACHE + within + len(name) <= WINDOWS_PATH for name in longest.values()), longest


def test_a_build_folder_has_a_short_name(families, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(archives.subprocess, "run", lambda command, **_: seen.append(Path(command[-1])) or
                        subprocess.CompletedProcess(command, 1, "stopped"))
    with pytest.raises(archives.BuildError, match="stopped"):
        archives.unpack_all(tmp_path / "world", ["one"])
    assert len(str(seen[0].relative_to(families.cache))) <= len("xxxxxxxx.b/w")


def test_a_cache_that_cannot_be_written_is_named_in_one_sentence(families, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("taken")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        monkeypatch.setenv("MCVP_CACHE", str(place))
        with pytest.raises(archives.BuildError) as caught:
            archives.unpack_all(tmp_path / "world", ["one"])
        message = str(caught.value)
        assert str(place) in message and "MCVP_CACHE" in message and "\n" not in message and "one" in message


class ReadOnly:
    """Stands for whatever writes to the cache, where the cache is somebody else's."""

    def __init__(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")


def test_a_prebuilt_cache_can_be_read_only(families, tmp_path, monkeypatch):
    archives.unpack_all(tmp_path / "world", ["one"])
    monkeypatch.setattr(archives, "FileLock", ReadOnly)
    monkeypatch.setattr(archives.os, "utime", ReadOnly)
    archives.unpack_all(tmp_path / "again", ["one"])
    assert held(tmp_path / "again") == {"one.bin": WHOLE["one.bin"]}
    with pytest.raises(archives.BuildError, match="two must be built.*Permission denied.*MCVP_CACHE"):
        archives.unpack_all(tmp_path / "again", ["one", "two"])


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_without_permission_to_write(families, tmp_path):
    archives.unpack_all(tmp_path / "world", ["one"])
    families.cache.chmod(0o555)
    try:
        archives.unpack_all(tmp_path / "again", ["one"])
        assert held(tmp_path / "again") == {"one.bin": WHOLE["one.bin"]}
        with pytest.raises(archives.BuildError, match="MCVP_CACHE"):
            archives.unpack_all(tmp_path / "again", ["two"])
    finally:
        families.cache.chmod(0o755)


def test_the_archives_are_plain_zips_of_the_world(world):
    scratch = Path(world["MCVP_OFFLINE_LOG"]).parent
    for family in HELD:
        with zipfile.ZipFile(archives.archive(family)) as file:
            assert file.namelist() and all((scratch / name).is_file() for name in file.namelist()), family


# --- which families a notebook needs ----------------------------------------------------------------------------------

def notebook(path: Path, *cells: str) -> Path:
    """A notebook of these code cells."""
    import nbformat

    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    return path


@pytest.mark.parametrize(("code", "needed"), [
    ("import numpy as np\nimport torch", []),
    ("from torchvision import datasets", ["torchvision_data"]),
    ("from torchvision.datasets import MNIST", ["torchvision_data"]),
    ("import torchvision.transforms.v2 as T", []),
    ("from torchvision.models import resnet18, ResNet18_Weights", ["torchvision_weights"]),
    ("from torchvision.models.detection import ssd300_vgg16", ["torchvision_weights"]),
    ("import torchvision", []),
    ("import torchvision\ntorchvision.models.resnet18()", ["torchvision_weights"]),
    ("import torchvision.datasets\ntorchvision.datasets.MNIST", ["torchvision_data"]),
    ("from torchvision.datasets import *", ["torchvision_data"]),
    ("from torchvision import datasets\ndatasets.utils.download_url(URL, '.')", ["torchvision_data", "url_files"]),
    ("from datasets import load_dataset", ["hub_datasets"]),
    ("import datasetsish", []),
    ("%pip install -q timm\nimport timm", ["timm_models"]),
    ("def load():\n    from transformers import pipeline\n    return pipeline", ["transformers_models"]),
    ("from ultralytics import YOLO", ["ultralytics_files"]),
    ("from diffusers import DDIMScheduler", ["diffusers_pipelines"]),
    ("import torch\ntorch.hub.download_url_to_file(URL, 'a.zip')", ["url_files"]),
    ("import torch\nROOT = torch.hub.get_dir()", []),
    ("import pandas as pd\ntable = pd.read_csv(URL)", ["url_files"]),
    ("import pandas as pd\npd.DataFrame()", []),
    ("import torchvision as tv\ntv.models.resnet18()", ["torchvision_weights"]),
    ("from urllib.request import urlretrieve", ["url_files"]),
    ("from torchvision.datasets.utils import download_url", ["torchvision_data", "url_files"]),
])
def test_a_notebook_needs_what_serves_its_imports(tmp_path, code, needed):
    assert needs.of([notebook(tmp_path / "Chapter01/a.ipynb", "x = 1", code)]) == needed


def test_notebooks_that_cannot_be_read_need_everything(tmp_path):
    good = notebook(tmp_path / "Chapter01/good.ipynb", "import timm")
    for bad in (notebook(tmp_path / "Chapter01/bad.ipynb", "this is (not Python"), tmp_path / "Chapter01/absent.ipynb"):
        assert needs.of([good, bad]) == archives.families()


def test_what_a_run_of_pytest_needs(tmp_path):
    notebook(tmp_path / "Chapter01/a.ipynb", "import timm")
    notebook(tmp_path / "Chapter02/b.ipynb", "import ultralytics")
    notebook(tmp_path / "Chapter02/c.ipynb", "import numpy")

    def needed(*arguments: str) -> list[str]:
        return needs.of_arguments(arguments, tmp_path)
    assert needed("Chapter01/a.ipynb") == needed("Chapter01") == needed(str(tmp_path / "Chapter01")) == ["timm_models"]
    assert needed("Chapter02/c.ipynb::Cell 1") == []
    assert needed("Chapter01/a.ipynb", "Chapter02") == ["timm_models", "ultralytics_files"]
    assert needed() == needed("tests") == needed("Chapter01", "tests/test_x.py") == needed(".") == archives.families()


def test_every_family_says_what_it_serves_and_is_tested():
    for family in archives.families():
        assert needs.serves(family) and archives.entries(family), family
        assert (ROOT / f"tests/test_offline_{family}.py").is_file(), family


# --- the command ------------------------------------------------------------------------------------------------------

def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """`python -m tests.offline …` from the repository's root."""
    return subprocess.run([sys.executable, "-m", "tests.offline", *arguments], cwd=ROOT, capture_output=True, text=True,
                          encoding="utf-8", env={**os.environ, **variables})


def test_the_command_runs_inside_and_hands_on_the_exit_code(world):
    run = command("python", "-c", "import os, socket; print(os.environ['TORCH_HOME'], os.getcwd()); "
                                  "print(os.path.isdir(os.environ['HF_HOME'])); socket.getaddrinfo('example.org', 80)")
    home, folder = run.stdout.splitlines()[0].split(" ", 1)
    assert run.returncode == 1 and "NotInTheWorld" in run.stderr
    assert folder == str(ROOT) and run.stdout.splitlines()[1] == "True"
    assert not Path(home).exists()  # cleaned up
    assert command("python", "-c", "raise SystemExit(7)").returncode == 7


def test_the_command_finds_the_programs_beside_this_python(world):
    run = command("jupyter", "--version", PATH=os.defpath)
    assert run.returncode == 0 and "nbformat" in run.stdout


def test_the_command_says_what_is_wrong(world):
    run = command()
    assert run.returncode == 2 and run.stderr.startswith("usage:")
    run = command("--help")
    assert run.returncode == 0 and run.stdout.startswith("usage:")
    run = command("no-such-program", "x")
    assert run.returncode == 127 and "no-such-program" in run.stderr and "Traceback" not in run.stderr


def test_the_command_says_in_one_sentence_where_the_cache_cannot_be(tmp_path):
    (tmp_path / "file").write_text("taken")
    run = command("python", "-c", "pass", MCVP_CACHE=str(tmp_path / "file"))
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "MCVP_CACHE" in run.stderr and str(tmp_path / "file") in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_command_ends_with_what_it_runs(world):
    assert command("python", "-c",
                   "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == 128 + signal.SIGKILL
    process = subprocess.Popen([sys.executable, "-m", "tests.offline", "python", "-c",
                                "print('up', flush=True); import time; time.sleep(60)"],
                               cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
