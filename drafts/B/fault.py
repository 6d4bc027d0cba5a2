"""fault.py CH/NOTEBOOK[:part|part] …: plants each fault (or those whose name has a part) on a copy; its tests; then shared definitions and form. --again: also what is done."""
import contextlib, io, json, os, pickle, signal, subprocess, sys, time, traceback, warnings
from pathlib import Path
sys.path.insert(0, "scratch/B"); from lists import ALL
W = Path("trees/B"); tag = os.environ.get("FAULT_TAG", "1"); T = Path(f"scratch/B/copy{tag}")
jobs = [a for a in sys.argv[1:] if not a.startswith("--")]
_j = Path(f"scratch/B/jobs{tag}.txt")
if _j.exists(): jobs = [l for l in _j.read_text().splitlines() if l.strip()]; os.environ.setdefault("FAULT_SECONDS", "540")
again = "--again" in sys.argv
DONE = Path("scratch/B/done.tsv"); done = {tuple(l.split("\t")[:2]) for l in DONE.read_text().splitlines()} if DONE.exists() and not again else set()
if not again: done |= {tuple(l.split("\t")[:2]) for l in Path("scratch/B/old.tsv").read_text().splitlines() if l.split("\t")[2] == "caught"}
subprocess.run(["rm", "-rf", str(T)]); T.mkdir(); subprocess.run(f"git -C {W} archive HEAD | tar -x -C {T}", shell=True, check=True)
for c in ("05", "06", "07", "08", "14", "15", "18"): subprocess.run(f"cp {W}/Chapter{c}/*.ipynb {T}/Chapter{c}/", shell=True, check=True)
subprocess.run(["rm", "-rf", str(T / "tests")]); subprocess.run(["cp", "-r", str(W / "tests"), str(T / "tests")], check=True)
_c = T / "tests/conftest.py"; _t = _c.read_text(); assert "derandomize=True)" in _t; _c.write_text(_t.replace("derandomize=True)", "derandomize=True, phases=[__import__('hypothesis').Phase.explicit, __import__('hypothesis').Phase.generate])"))
subprocess.run([sys.executable, "scratch/B/patch_world.py", str(T)], check=True)
os.chdir(T); sys.path.insert(0, str(T)); os.environ["MPLBACKEND"] = "agg"; os.environ["YOLO_CONFIG_DIR"] = "scratch/ch08b/yoloconf"
warnings.simplefilter("ignore"); BEGAN = time.time()
import numpy, pandas, matplotlib.pyplot, PIL.Image, scipy.stats, torch, torchvision, torchvision.transforms.v2, hypothesis, pytest, IPython, nbformat
torch.set_num_threads(1)
text = " ".join(jobs)
need = {"14/": "gymnasium", "05/": "datasets sklearn.metrics scipy.spatial", "06/": "sklearn.metrics cv2", "07/": "torchmetrics.detection", "08/": "torchmetrics.detection",
        "v8": "ultralytics", "EfficientDet": "effdet", "vector": "faiss", "Scaling": "ray ray.data ray.train.torch ray.serve fastapi httpx", "onnx": "onnx onnxruntime torch.onnx", "quantization": "onnx onnxruntime torch.onnx",
        "API": "fastapi httpx uvicorn"}
for key, names in need.items():
    if key in text:
        for n in names.split():
            with contextlib.suppress(Exception): __import__(n)
from tests import structure
from tests.notebooks import notebooks, read
class Watch:
    def __init__(self): self.failed = []
    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed: self.failed.append((report.nodeid.split("::", 1)[-1] + ("" if report.when == "call" else " (" + report.when + ")"), [l for l in str(report.longrepr).splitlines() if l.startswith("E ")][:1]))
    def pytest_collectreport(self, report):
        if report.failed and not self.failed: self.failed.append(("collection", str(report.longrepr).splitlines()[-1:]))
def in_child(function, limit=60):
    r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        os.close(r); signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.alarm(limit)
        try: out = function()
        except BaseException: out = ("crash", traceback.format_exc()[-300:])
        with os.fdopen(w, "wb") as f: pickle.dump(out, f)
        os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f: data = f.read()
    os.waitpid(pid, 0)
    return pickle.loads(data) if data else ("timeout", f"{limit} s")
import ast
def likely(ch, nb, good, pairs):
    """Node ids of the tests that mention the function, or run the cell, where the first change stands."""
    path = f"tests/chapter{ch}/test_{nb.lower().replace('-', '_')}.py"; names, cells = set(), []
    for c in json.loads(good)["cells"]:
        src = "".join(c["source"])
        if c["cell_type"] != "code" or not any(o in src for o, _ in pairs): continue
        try: tree = ast.parse("\n".join(l if not l.lstrip().startswith(("%", "!")) else "pass" for l in src.split("\n")))
        except SyntaxError: continue
        inside = False
        for node in tree.body:
            seg = ast.get_source_segment(src, node) or ""
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) and any(o.strip() in seg for o, _ in pairs): names.add(node.name); inside = True
        if not inside: cells.append(src)
    out = []
    for node in ast.parse(Path(path).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} | {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            hit = bool(words & names) or any(len(x) > 8 and any(x in c for c in cells) for x in words)
            if hit: out.append(f"{path}::{node.name}")
    return out
def tests(ch, nb, only=None):
    def go():
        w = Watch(); paths = [f"tests/chapter{ch}/test_{nb.lower().replace('-', '_')}.py"]
        if ch in ("07", "08"): paths.append("tests/chapter08/test_same_photos.py")
        if ch in ("05", "06", "07", "08"): paths += [f"tests/test_splits.py::{t}[Chapter{ch}/{nb}.ipynb]" for t in ("test_a_part_keeps_its_name", "test_photos_of_a_part_are_those_of_its_rows", "test_nothing_is_trained_with_the_test_set", "test_what_is_chosen_or_best_does_not_follow_from_the_test_photos")] + (["tests/test_splits.py::test_choices_do_not_look_at_the_test_photos"] if nb in ("Mean_average_precision", "Non_max_suppression", "Understanding_selectivesearch") else [])
        if only: paths = only
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            rc = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", *paths], plugins=[w])
        return w.failed[0] if w.failed else (None, str(rc))
    return in_child(go)
def defs(nb):
    return [(node.name, structure.signature(node), ast.dump(node)) for _, tree in structure.trees(nb) for node in tree.body if isinstance(node, structure.DEFINITIONS)]
DEFS = {}
def shared(path, good):
    if not DEFS:
        for p in notebooks():
            if p.name != path.name:
                for n, sig, d in defs(read(p)): DEFS.setdefault((n, sig), {})[p] = d
    before = {(n, sig): d for n, sig, d in defs(nbformat.reads(good, 4))}
    for n, sig, d in defs(read(path)):
        if before.get((n, sig)) != d and any(e != d for q, e in DEFS.get((n, sig), {}).items() if q != path): return ("same name, other body", n)
    return (None, "")
for job in jobs:
    key, _, parts = job.partition(":"); key, _, most = key.partition("#"); ch, nb = key.split("/"); parts = parts.split("|") if parts else []; left = int(most or 99)
    path = T / f"Chapter{ch}/{nb}.ipynb"; good = path.read_text()
    for name, pairs in ALL[ch, nb]:
        if parts and not any(p in name for p in parts) or (nb, name) in done: continue
        left -= 1
        if left < 0: break
        if time.time() - BEGAN > int(os.environ.get("FAULT_SECONDS", "560")): print("TIME IS UP", flush=True); sys.exit()
        d = json.loads(good); counts = []
        for old, new in pairs:
            n = 0
            for c in d["cells"]:
                if c["cell_type"] != "code": continue
                s = "".join(c["source"]); n += s.count(old); c["source"] = s.replace(old, new).splitlines(keepends=True)
            counts.append(n)
        if min(counts) < 1: print(f"{nb}\t{name}\tNOT FOUND {counts}", flush=True); continue
        path.write_text(json.dumps(d, indent=1, ensure_ascii=False) + "\n"); t = time.time()
        some = likely(ch, nb, good, pairs); by = tests(ch, nb, some) if some else (None, "")
        first = bool(by[0])
        if not by[0]: by = shared(path, good)
        if not by[0]: by = tests(ch, nb)
        path.write_text(good)
        line = f"{nb}\t{name}\t{'caught' if by[0] else 'SURVIVED'}\t{by[0] or ''}\t{str(by[1])[:140]}\t{time.time() - t:.0f} s{'' if first else ', whole file'}"
        print(line, flush=True)
        with DONE.open("a") as f: f.write(line + "\n")
