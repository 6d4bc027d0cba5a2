"""`python -m tests.offline check` against a server that plays the hub and the download servers.

The server answers as the registries claim; then one answer at a time is made to differ, in every way in which the real
world may, and each difference must be one line.
"""
from __future__ import annotations

import copy
import http.server
import io
import json
import threading
from urllib.parse import urlencode, urlsplit

import pytest
from PIL import Image

from tests.offline import archives, check
from tests.offline.families.__main__ import load
from tests.offline.hub import Repository

VIT = "google/vit-base-patch16-224"
VIT_AT = f"/huggingface.co/api/models/{VIT}/revision/3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3"
VIT_CONFIG = f"/huggingface.co/{VIT}/resolve/3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3/config.json"
BEANS = "AI-Lab-Makerere/beans"
BEANS_AT = f"/huggingface.co/api/datasets/{BEANS}/revision/27aa014ce09b193e1a6f58112d4a66e0eddb69c5"
BEANS_NAMED = urlencode({"dataset": BEANS, "config": "default"})
BEANS_INFO = f"/datasets-server.huggingface.co/info?{BEANS_NAMED}"
BEANS_ROWS = f"/datasets-server.huggingface.co/first-rows?{BEANS_NAMED}&split=train"
RESNET = "/download.pytorch.org/models/resnet18-f37072fd.pth"
PETS = "/www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz"
YOLO = "yolov8n.pt"


def put(values: dict, path: str, value) -> None:
    """Set what stands at a dotted path, making objects on the way."""
    *steps, last = path.split(".")
    for step in steps:
        values = values.setdefault(step, {})
    values[last] = value


def truth() -> dict[str, object]:
    """What the world would answer if every claim held: by path, JSON, bytes, or the number of bytes of a file."""
    answers: dict[str, object] = {}
    for family in archives.families():
        module = load(archives.FAMILIES / f"{family}.py")
        name_of = getattr(module, "repository_id", lambda name: name)
        for name, entry in module.ENTRIES.items():
            repo_id = name_of(name)
            if isinstance(entry, Repository):
                about = {"sha": entry.revision, "gated": False, "siblings": [{"rfilename": one} for one in entry.files],
                         "cardData": {"license": entry.licence}}
                home = f"/huggingface.co/api/{entry.kind}s/{repo_id}"
                answers[home] = about
                answers[f"{home}/refs"] = {"branches": [{"name": ref} for ref in entry.refs], "tags": []}
                if entry.revision:
                    answers[f"{home}/revision/{entry.revision}"] = about
                for file, claims in entry.config.items():
                    values: dict = {}
                    for path, value in claims.items():
                        put(values, path, value)
                    kind = "" if entry.kind == "model" else f"{entry.kind}s/"
                    answers[f"/huggingface.co/{kind}{repo_id}/resolve/{entry.revision or 'main'}/{file}"] = values
            elif hasattr(entry, "features"):
                about = {"sha": entry.revision, "gated": False, "tags": [f"license:{entry.licence}"]}
                answers[f"/huggingface.co/api/datasets/{repo_id}"] = about
                answers[f"/huggingface.co/api/datasets/{repo_id}/revision/{entry.revision}"] = about
                features = entry.features.to_dict()
                asked = urlencode({"dataset": repo_id, "config": entry.config})
                answers[f"/datasets-server.huggingface.co/info?{asked}"] = {"dataset_info": {
                    "features": module.as_before_version_4(features) if entry.legacy else features,
                    "splits": {split: {"num_examples": count or 7} for split, count in entry.counts.items()}}}
                row = {}
                for column, (mode, size) in entry.pictures.items():
                    source = f"/datasets-server.huggingface.co/assets/{urlencode({'of': name})}/{column}.png"
                    size, file = size or (50, 40), io.BytesIO()
                    Image.new(mode, size).save(file, "PNG")
                    answers[source] = file.getvalue()
                    row[column] = {"src": f"https:/{source}", "width": size[0], "height": size[1]}
                split = next(iter(entry.counts))
                answers[f"/datasets-server.huggingface.co/first-rows?{asked}&split={split}"] = {"rows": [{"row": row}]}
            else:
                for url, size in (module.urls(name) if hasattr(module, "urls") else entry.urls).items():
                    parts = urlsplit(url)
                    answers[f"/{parts.netloc}{parts.path}"] = size.number if size else 4096
    return answers


class Playing(http.server.ThreadingHTTPServer):
    """A server that answers by `answers`, keeps those in `slow` waiting, and fails so often for those in `busy`."""

    daemon_threads = True

    def __init__(self, answers: dict[str, object]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers, self.slow, self.busy, self.cut, self.asked = answers, set(), {}, {}, []
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that does not wait for a slow answer is no error here."""


class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self, body: bool) -> None:
        server: Playing = self.server
        server.asked.append((self.command, self.path))
        if self.path in server.slow:
            server.over.wait(60)
        if server.busy.get(self.path, 0) > 0:
            server.busy[self.path] -= 1
            return self.send_error(503)
        found = server.answers.get(self.path)
        if found is None:
            return self.send_error(404)
        content = b"" if isinstance(found, int) else found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(found if isinstance(found, int) else len(content)))
        self.end_headers()
        if server.cut.get(self.path, 0) > 0:
            server.cut[self.path] -= 1
            content = content[:5]
        if body:
            self.wfile.write(content)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def honest() -> dict[str, object]:
    return truth()


@pytest.fixture
def world(honest):
    server = Playing(copy.deepcopy(honest))
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def run(world: Playing, capsys, *arguments: str, timeout: float = 60, tries: int = 2) -> tuple[int, list[str]]:
    """The exit code of a check through the server, and the lines it printed."""
    code = check.main([*arguments, "--through", world.url, "--timeout", str(timeout), "--tries", str(tries), "--pause",
                       "0.01"])
    return code, capsys.readouterr().out.splitlines()


def test_a_world_as_it_is_claimed_passes(world, capsys):
    code, lines = run(world, capsys)
    assert code == 0 and len(lines) == 1 and "0 differ, 0 could not be asked" in lines[0], lines[:20]
    of_entries = sum(len(archives.entries(family)) for family in archives.families())
    assert int(lines[0].split()[0]) == of_entries
    assert not [path for method, path in world.asked if method == "GET" and path.endswith((".bin", ".zip", ".pth"))]


def test_every_claim_can_be_seen(world, capsys):
    code, lines = run(world, capsys, "transformers_models", "--every")
    assert code == 0 and any(VIT in line and "tabby, tabby cat" in line and line.startswith("ok") for line in lines)


def forget(*paths: str):
    return lambda world: [world.answers.pop(path) for path in paths]


def other(path: str, change):
    return lambda world: change(world.answers[path])


def features(world) -> dict:
    return world.answers[BEANS_INFO]["dataset_info"]["features"]


def rename_column(world) -> None:
    features(world)["label"] = features(world).pop("labels")


def grey(world) -> None:
    source = urlsplit(world.answers[BEANS_ROWS]["rows"][0]["row"]["image"]["src"])
    file = io.BytesIO()
    Image.new("L", (500, 500)).save(file, "PNG")
    world.answers[f"/{source.netloc}{source.path}"] = file.getvalue()


def bytes_of(path: str, number: int):
    return lambda world: world.answers.update({path: number})


MODELS, DATA = "transformers_models", "hub_datasets"
FAULTS = {  # what differs: the family, how, and what its one line must hold
    "missing id": (MODELS, forget(VIT_AT, f"/huggingface.co/api/models/{VIT}"), (VIT, "id and commit", "404")),
    "missing commit": (MODELS, forget(VIT_AT), (VIT, "the commit 3f49326e", "is not")),
    "other commit": (MODELS, other(VIT_AT, lambda about: about.update(sha="f" * 40)), (VIT, "commit", "f" * 40)),
    "missing file": (MODELS, other(VIT_AT, lambda about: about["siblings"].pop(1)), (VIT,
        "missing: model.safetensors")),
    "surplus file": (MODELS, lambda world: world.answers[
        "/huggingface.co/api/models/microsoft/trocr-base-printed/revision/93450be3f1ed40a930690d951ef3932687cc1892"
    ]["siblings"].append({"rfilename": "tokenizer.json"}), ("microsoft/trocr-base-printed", "there: tokenizer.json")),
    "licence of a model": (MODELS, other(VIT_AT, lambda about: about["cardData"].update(license="mit")),
                           (VIT, "licence", "apache-2.0", "mit")),
    "gated": (MODELS, other(VIT_AT, lambda about: about.update(gated="manual")), (VIT, "gated", "manual")),
    "missing branch": (MODELS, other("/huggingface.co/api/models/facebook/detr-resnet-50/refs", lambda refs: refs[
        "branches"].pop()), ("facebook/detr-resnet-50", "branch no_timm", "only main")),
    "config value": (MODELS, other(VIT_CONFIG, lambda values: values.update(image_size=384)),
                     (VIT, "config.json: image_size", "224", "384")),
    "missing config value": (MODELS, other(VIT_CONFIG, lambda values: values.pop("patch_size")),
                             (VIT, "config.json: patch_size", "16", "absent")),
    "label name in a config": (MODELS, other(VIT_CONFIG, lambda values: values["id2label"].update({"281": "tabby"})),
                               (VIT, "id2label.281", "tabby, tabby cat")),
    "missing config": (MODELS, forget(VIT_CONFIG), (VIT, "config.json", "404")),
    "config that is no JSON": (MODELS, lambda world: world.answers.update({VIT_CONFIG: b"<html>"}),
                               (VIT, "config.json", "no JSON")),
    "missing data set": (DATA, forget(BEANS_AT, f"/huggingface.co/api/datasets/{BEANS}"), (BEANS, "404")),
    "other commit of data": (DATA, other(BEANS_AT, lambda about: about.update(sha="e" * 40)), (BEANS, "commit",
        "e" * 40)),
    "licence of data": (DATA, other(BEANS_AT, lambda about: about.update(tags=["license:cc0-1.0"])),
                        (BEANS, "licence", "mit", "cc0-1.0")),
    "renamed column": (DATA, rename_column, (BEANS, "columns", "labels", "image, label")),
    "surplus column": (DATA, lambda world: features(world).update(extra={"dtype": "string", "_type": "Value"}),
                       (BEANS, "columns", "extra")),
    "other type": (DATA, lambda world: features(world).update(image_file_path={"dtype": "int64", "_type": "Value"}),
                   (BEANS, "column image_file_path", "string", "int64")),
    "no class label": (DATA, lambda world: features(world).update(labels={"dtype": "int64", "_type": "Value"}),
                       (BEANS, "column labels", "ClassLabel(", "int64")),
    "label order": (DATA, lambda world: features(world)["labels"]["names"].reverse(),
                    (BEANS, "column labels", "ClassLabel(healthy, bean_rust, angular_leaf_spot)")),
    "split count": (DATA, lambda world: world.answers[BEANS_INFO]["dataset_info"]["splits"]["train"].update(
        num_examples=1033), (BEANS, "rows of train", "1034", "1033")),
    "renamed split": (DATA, lambda world: world.answers[BEANS_INFO]["dataset_info"]["splits"].update(
        valid=world.answers[BEANS_INFO]["dataset_info"]["splits"].pop("validation")), (BEANS, "splits", "valid")),
    "other config": (DATA, forget(BEANS_INFO), (BEANS, "columns and splits", "404")),
    "image size": (DATA, other(BEANS_ROWS, lambda told: told["rows"][0]["row"]["image"].update(width=640)),
                   (BEANS, "size of image", "500 × 500", "640 × 500")),
    "image mode": (DATA, grey, (BEANS, "mode of image", "RGB", "L")),
    "no image": (DATA, other(BEANS_ROWS, lambda told: told["rows"][0]["row"].update(image="a.jpg")),
                 (BEANS, "picture image", "no picture")),
    "size of weights": ("torchvision_weights", bytes_of(RESNET, 46_000_000), ("resnet18", RESNET[1:], "46,000,000")),
    "missing weights": ("torchvision_weights", forget(RESNET), ("resnet18", RESNET[1:], "404")),
    "size of data": ("torchvision_data", bytes_of(PETS, 791918970), ("OxfordIIITPet", "791,918,970", "791,918,971")),
    "missing data": ("torchvision_data", forget(PETS), ("OxfordIIITPet", PETS[1:], "404")),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_difference_is_one_line(world, capsys, name):
    family, plant, expected = FAULTS[name]
    plant(world)
    code, lines = run(world, capsys, family)
    outcome = check.NOT_ASKED if name == "config that is no JSON" else check.DIFFERS
    assert code == (1 if outcome == check.DIFFERS else 3)
    told = [line for line in lines if line.startswith((check.DIFFERS, check.NOT_ASKED))]
    assert len(told) == 1 and told[0].startswith(outcome) and all(part in told[0] for part in expected), told


def test_a_file_of_a_release_is_asked_of_the_release_that_is_installed(world, capsys):
    path = next(path for path in world.answers if path.endswith(f"/{YOLO}"))
    assert path.startswith("/github.com/ultralytics/assets/releases/download/v")
    world.answers[path] = 5
    code, lines = run(world, capsys, "ultralytics_files")
    assert code == 1 and sum(line.startswith(check.DIFFERS) and YOLO in line for line in lines) == 1


def test_torchvision_rounds_its_sizes(world, capsys):
    world.answers[RESNET] += 400  # less than it tells
    assert run(world, capsys, "torchvision_weights")[0] == 0
    world.answers[RESNET] += 1200
    assert run(world, capsys, "torchvision_weights")[0] == 1


def test_what_could_not_be_asked_is_said(world, capsys):
    world.slow.add(VIT_CONFIG)
    code, lines = run(world, capsys, MODELS, timeout=8, tries=1)
    told = [line for line in lines if line.startswith(check.NOT_ASKED)]
    assert code == 3 and len(told) == 1 and VIT in told[0] and "timed out" in told[0]
    assert "1 could not be asked" in lines[-1]


def test_an_answer_that_is_cut_off_is_asked_for_again(world, capsys):
    world.cut[VIT_CONFIG] = 1
    assert run(world, capsys, MODELS)[0] == 0
    world.cut[VIT_CONFIG] = 5
    code, lines = run(world, capsys, MODELS)
    assert code == 3 and sum("IncompleteRead" in line for line in lines) == 1


def test_a_difference_counts_more_than_silence(world, capsys):
    world.busy[VIT_CONFIG] = 5
    world.answers[VIT_AT]["sha"] = "f" * 40
    code, lines = run(world, capsys, MODELS)
    assert code == 1 and [line.split()[0] for line in lines[1:3]] == ["DIFFERS", "not"]


def test_a_busy_server_is_asked_again(world, capsys):
    world.busy[VIT_AT] = 1
    assert run(world, capsys, MODELS)[0] == 0
    world.busy[VIT_AT] = 5
    code, lines = run(world, capsys, MODELS)
    assert code == 3 and sum("HTTP 503" in line for line in lines) == 1


def test_without_a_network_all_is_said_not_to_be_asked(world, capsys):
    world.shutdown()
    world.server_close()
    code, lines = run(world, capsys, DATA)
    assert code == 3 and "0 hold, 0 differ" in lines[-1]
    assert sum(line.startswith(check.NOT_ASKED) for line in lines) == len(archives.entries(DATA))


def test_an_unknown_family_is_named(capsys):
    with pytest.raises(SystemExit) as caught:
        check.main(["no_such_family"])
    assert caught.value.code == 2 and "no_such_family" in capsys.readouterr().err


def test_the_command_leads_here(monkeypatch):
    from tests.offline import __main__ as command

    monkeypatch.setattr(check, "main", lambda arguments: 41 if arguments == ["timm_models", "--every"] else 0)
    assert command.main(["check", "timm_models", "--every"]) == 41
