"""The container, read and not built: the Dockerfile and compose file keep what the notebook and the README say."""
import ast
import json
import re
import socket
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from tests.cells import run_cell
from tests.chapter18.conftest import APP
from tests.definitions import definitions
from tests.notebooks import ROOT, read

NOTEBOOK = "Chapter18/Deploying_in_a_container.ipynb"
DOCKERFILE = (APP / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((APP / "compose.yaml").read_text(encoding="utf-8"))["services"]["garments"]
INSTRUCTIONS = [line.split(maxsplit=1) for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
                if line and not line.startswith("#")]
lesson = definitions(NOTEBOOK, "closure", "installed_mb", "get", "running", "SERVE", "DOCKERFILE", "WANTED")


def of(kind):
    """The arguments of all instructions of a kind, in order."""
    return [rest for name, rest in INSTRUCTIONS if name == kind]


def test_the_notebook_explains_this_very_file():
    assert lesson.DOCKERFILE.strip() == DOCKERFILE.strip()
    prose = "\n".join(cell.source for cell in read(ROOT / NOTEBOOK).cells if cell.cell_type == "markdown")
    for kind in {name for name, _ in INSTRUCTIONS} - {"WORKDIR"}:
        assert re.search(rf"^\| `{kind}\b", prose, re.MULTILINE), f"{kind} is not explained"


def test_every_line_is_an_instruction():
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert {name for name, _ in INSTRUCTIONS} == known


def test_rules_of_hadolint_that_text_can_show():
    assert all(re.fullmatch(r"\S+:\d+\.\d+\.\d+-\S+", image) for image in of("FROM"))  # DL3006, DL3007
    assert not of("ADD") and not of("MAINTAINER")  # DL3020, DL4000
    assert all(path.startswith("/") for path in of("WORKDIR"))  # DL3000
    for command in of("RUN"):
        assert not re.search(r"\b(sudo|ssh|vim|shutdown|mount|cd)\b", command)  # DL3004, DL3001, DL3003
        assert command.count("pip install") == command.count("--no-cache-dir")  # DL3042
        assert "apt-get" not in command or ("--no-install-recommends" in command and "/var/lib/apt/lists" in command)
        assert "useradd" not in command or "--no-log-init" in command  # DL3046
        assert "|" not in re.sub(r"'[^']*'|\$\([^)]*\)", "", command).replace("||", "")  # DL4006
    assert len(of("CMD")) == len(of("HEALTHCHECK")) == len(of("USER")) == 1  # DL4003, DL3012
    assert isinstance(json.loads(of("CMD")[0]), list)  # DL3025
    assert isinstance(json.loads(re.search(r"CMD (.*)", of("HEALTHCHECK")[0])[1]), list)
    assert all(0 < int(port) < 65536 for port in of("EXPOSE"))  # DL3011


def test_order_saves_work_and_rights():
    place = {kind: [n for n, (name, _) in enumerate(INSTRUCTIONS) if name == kind] for kind, _ in INSTRUCTIONS}
    copies = {name: n for n, (kind, rest) in enumerate(INSTRUCTIONS) if kind == "COPY" for name in rest.split()}
    install = next(n for n in place["RUN"] if "pip install" in INSTRUCTIONS[n][1])
    assert copies["requirements.txt"] < install < copies["server.py"] < place["USER"][0] < place["CMD"][0]
    assert of("USER")[0] not in ("root", "0")
    assert any(f" {of('USER')[0]}" in command and "useradd" in command for command in of("RUN"))


def test_what_the_program_reads_is_in_the_image_and_nothing_else():
    copied = {name for rest in of("COPY") for name in rest.split() if not name.startswith(("--", "./"))}
    assert copied == {"requirements.txt", "server.py", "decoding.py", "page.html", "garments.safetensors"}
    ignore = (APP / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignore[0] == "*" and {line for line in ignore[1:]} == {f"!{name}" for name in copied}
    source = (APP / "server.py").read_text(encoding="utf-8")
    for name in re.findall(r"HERE / \"([\w.]+)\"", source):
        assert name in copied, f"server.py reads {name}"


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", ".dockerignore"])
def test_no_secrets(name):
    text = (APP / name).read_text(encoding="utf-8")
    assert not re.search(r"(?i)(token|password|secret|api_?key)\s*[=:]|\.env\b|id_rsa", text)


def test_health_checks_ask_what_exists():
    paths = re.findall(r'@app\.get\("(/\w*)"', (APP / "server.py").read_text(encoding="utf-8"))
    for check, path in ((of("HEALTHCHECK")[0], "/health"), (" ".join(COMPOSE["healthcheck"]["test"]), "/ready")):
        assert f"http://127.0.0.1:8000{path}'" in check and path in paths
        assert "timeout=4" in check  # ends before the platform's own 5 seconds
    assert "--start-period=60s" in of("HEALTHCHECK")[0] and COMPOSE["healthcheck"]["start_period"] == "60s"


def test_compose_keeps_the_container_small():
    assert COMPOSE["read_only"] is True and COMPOSE["cap_drop"] == ["ALL"] and COMPOSE["init"] is True
    assert "no-new-privileges:true" in COMPOSE["security_opt"] and COMPOSE["mem_limit"] == "2g"
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["ports"]), "open to other machines"
    assert "privileged" not in COMPOSE and "volumes" not in COMPOSE and "environment" not in COMPOSE
    end = int(re.search(r"timeout_graceful_shutdown=(\d+)", (APP / "server.py").read_text(encoding="utf-8"))[1])
    assert int(COMPOSE["stop_grace_period"].rstrip("s")) > end and end < 10  # seconds that docker stop waits


def test_the_readme_names_the_limits_of_the_programs():
    text = (APP / "README.md").read_text(encoding="utf-8")
    values = {}
    for program in ("server.py", "decoding.py"):
        source = (APP / program).read_text(encoding="utf-8")
        for name, value in re.findall(r"^(MAX_\w+|\w+_SECONDS) = ([\d_]+)", source, re.MULTILINE):
            values[name] = int(value.replace("_", ""))
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    limits = {row[0].strip(): row[1].strip() for row in rows if len(row) == 3}
    said = {"bytes of a request": ("MAX_BODY", 10**6), "seconds for a request to arrive": ("BODY_SECONDS", 1),
            "images in a batch": ("MAX_FILES", 1), "pixels of all images of a request": ("MAX_PIXELS", 10**6),
            "parts of a file (JPEG segments, PNG chunks)": ("MAX_PARTS", 1), "scans of a JPEG": ("MAX_SCANS", 1),
            "seconds to decode a request": ("DECODE_SECONDS", 1),
            "requests that wait for a decoder": ("MAX_WAITING", 1),
            "bytes of all requests that are received or wait": ("MAX_BODIES", 10**6)}
    for row, (name, unit) in said.items():
        assert int(re.match(r"[\d,]+", limits[row])[0].replace(",", "")) * unit == values[name], row
    for path in re.findall(r'@app\.(?:get|post)\("(/\w*(?:/\w+)?)"', (APP / "server.py").read_text(encoding="utf-8")):
        assert f" {path}`" in text, f"{path} is not in the README"
    assert "2 GB" in text and "compose.yaml" in text


# --- the notebook's own functions


def test_packages_follow_their_requirements():
    found, missing = lesson.closure(["tqdm", "no-such-package-anywhere", "Pillow"])
    assert {"tqdm", "pillow"} <= set(found) and missing == {"no-such-package-anywhere"}
    found, _ = lesson.closure(["fastapi"])
    assert {"starlette", "pydantic", "pydantic-core", "anyio"} <= set(found)
    assert lesson.closure([]) == ({}, set())


def test_the_notebook_weighs_what_the_container_installs():
    lines = (APP / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    assert set(lesson.WANTED) == pinned - {"h11", "starlette"}  # which uvicorn and fastapi bring


def test_nobody_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert lesson.get(f"http://127.0.0.1:{port}/") == (0, "")


def test_a_server_that_ends_is_an_error_and_not_a_wait(tmp_path):
    program = tmp_path / "ends.py"
    program.write_text("import sys\nsys.exit('no weights')\n")
    with pytest.raises(RuntimeError, match="no weights"), lesson.running(program, tmp_path / "log.txt", 60):
        pass


def test_the_small_server_starts_answers_and_ends(tmp_path):
    program = tmp_path / "serve.py"
    program.write_text(lesson.SERVE, encoding="utf-8")
    with lesson.running(program, tmp_path / "log.txt", 300) as (url, seconds):
        assert seconds > 0 and lesson.get(f"{url}/health")[0] == 200
        status, text = lesson.get(f"{url}/predict", json.dumps([1.0] * 784).encode())
        assert status == 200 and abs(sum(json.loads(text)) - 1) < 1e-4
        assert lesson.get(f"{url}/nowhere")[0] == 404
    assert lesson.get(f"{url}/health") == (0, "")


def test_the_small_server_is_ready_when_its_network_answers_and_only_this_machine_asks():
    tree = ast.parse(lesson.SERVE)
    ready = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "ready")
    assert "answer" in [node.func.id for node in ast.walk(ready)
                        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    run = next(call for call in calls if ast.unparse(call.func) == "uvicorn.run")
    assert next(keyword.value.value for keyword in run.keywords if keyword.arg == "host") == "127.0.0.1"


def test_a_server_that_lives_is_not_one_that_is_ready(tmp_path):
    program = tmp_path / "late.py"
    program.write_text("""
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
began = time.time()
class Late(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" or time.time() > began + 1 else 503)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[1])), Late).serve_forever()
""")
    with lesson.running(program, tmp_path / "log.txt", 60) as (url, seconds):
        assert seconds > 1 and lesson.get(f"{url}/ready")[0] == 200


def test_the_time_to_end_is_that_of_the_end(tmp_path):
    @contextmanager
    def slow(program, log, patience):
        yield "url", 0.0
        time.sleep(0.3)

    found = run_cell(NOTEBOOK, "told = time.perf_counter()", running=slow, folder=tmp_path, PATIENCE=1,
                     get=lambda url: (200, '{"sum": 1.0}'))
    assert 0.3 <= found["ending"] < 3


def starts():
    """Two starts of a server: seconds from its beginning to the end of each stage."""
    names = ["import torch", "import fastapi, uvicorn", "network, first forward pass", "first answer"]
    return pd.DataFrame([[1.0, 1.5, 1.75, 2.0], [2.0, 3.0, 3.5, 4.0]], columns=names)


def test_each_stage_takes_what_lies_between_two_marks():
    found = run_cell(NOTEBOOK, "stages = starts.diff", starts=starts())
    assert found["stages"].tolist() == [1.5, 0.75, 0.375, 0.375] and found["imports"] == 2.25


def test_cuda_is_counted_apart(tmp_path):
    sizes = {"torch": 500.0, "numpy": 50.0, "nvidia-cudnn-cu12": 700.0, "triton": 200.0}
    for name in ("libtorch_cuda.so", "libtorch.so"):
        (tmp_path / name).write_bytes(bytes(10**6))
    files = [SimpleNamespace(name=path.name, locate=path.absolute) for path in tmp_path.iterdir()]
    found = run_cell(NOTEBOOK, "packages, missing = closure(WANTED)", WANTED=(), installed_mb=sizes.get,
                     closure=lambda names: ({name: SimpleNamespace(files=files) for name in sizes}, set()))
    assert found["shown"].to_dict() == {"torch": 499, "numpy": 50}
    assert (found["cuda"].sum(), found["cuda_in_torch"]) == (900, 1)


def test_results_are_taken_from_where_they_belong():
    found = run_cell(NOTEBOOK, '"cold_start_seconds"', starts=starts(), imports=2.25, ending=0.5, cuda_in_torch=100.0,
                     shown=pd.Series({"torch": 500.0, "numpy": 50.0}), cuda=pd.Series({"triton": 200.0}),
                     torch_share=0.9)["results"]
    assert found == {"cold_start_seconds": 3, "import_seconds": 2.25, "cold_start_slowest_seconds": 4, "packages": 2,
                     "ending_seconds": 0.5, "packages_mb": 550, "torch_mb": 500, "cuda_mb": 300, "torch_share": 0.9}


def test_the_platform_can_see_that_the_user_is_not_root():
    assert re.fullmatch(r"[1-9]\d*", of("USER")[0])  # DL3066
