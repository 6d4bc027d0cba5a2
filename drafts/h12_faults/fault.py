"""fault.py GROUP [NAMES…] [--control] [--run]: plant each fault of f/GROUP.py on a copy; its tests, the shared definitions, and (where the fault says so) the quick run.

A group file holds CHAPTER and F = {notebook: [(name, [(old, new), …], run), …]}; run: also the quick run where nothing else caught it.
"""
import contextlib, io, json, os, pickle, runpy, subprocess, sys, time, traceback
from pathlib import Path
W = Path("."); group = sys.argv[1]
T = Path(f"scratch/h12/copies/{group}"); T.parent.mkdir(exist_ok=True)
opts = [a for a in sys.argv[2:] if a.startswith("--")]; only = [a for a in sys.argv[2:] if not a.startswith("--")]
G = runpy.run_path(f"scratch/h12/f/{group}.py"); CH, F = G["CHAPTER"], G["F"]
subprocess.run(["rm", "-rf", str(T)]); T.mkdir(); subprocess.run(f"git -C {W} archive {os.environ.get('FAULT_TREE', 'HEAD')} | tar -x -C {T}", shell=True, check=True)
os.chdir(T); sys.path.insert(0, str(T)); os.environ.setdefault("OMP_NUM_THREADS", "1"); os.environ["MPLBACKEND"] = "agg"
import warnings; warnings.simplefilter("ignore")
import numpy, pandas, matplotlib, matplotlib.pyplot, PIL.Image, scipy.stats, scipy.spatial, torch, torchvision, torchvision.transforms.v2, hypothesis, pytest, datasets, sklearn.metrics, sklearn.neighbors, IPython, nbformat
for name in G.get("IMPORTS", ()): __import__(name)
from tests import structure
from tests.notebooks import notebooks, read
BEGAN = time.time(); DONE = Path(f"scratch/h12/done_{group}.txt"); done = set(DONE.read_text().splitlines()) if DONE.exists() and "--again" not in opts and not only else set()
SHELF = {path: read(path) for path in notebooks()}
class Watch:
    def __init__(self): self.failed = []
    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed: self.failed.append((report.nodeid.split("::")[-1], [l for l in str(report.longrepr).splitlines() if l.startswith("E ")][:1]))
    def pytest_collectreport(self, report):
        if report.failed and not self.failed: self.failed.append(("collection", [str(report.longrepr).splitlines()[-1]]))
def plant(path, pairs):
    nb = json.loads(path.read_text()); counts = []
    for old, new in pairs:
        n = 0
        for c in nb["cells"]:
            if c["cell_type"] != "code": continue
            s = "".join(c["source"]); n += s.count(old); c["source"] = s.replace(old, new).splitlines(keepends=True)
        counts.append(n)
    return nb, counts
def in_child(function):
    r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        os.close(r)
        try: out = function()
        except BaseException: out = ("crash", traceback.format_exc()[-300:])
        with os.fdopen(w, "wb") as f: pickle.dump(out, f)
        os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f: data = f.read()
    os.waitpid(pid, 0)
    return pickle.loads(data) if data else ("crash", "no answer")
def tests(nb):
    def go():
        w = Watch(); path = f"tests/chapter{CH}/test_{nb.lower()}.py"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            rc = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", path], plugins=[w])
        return w.failed[0] if w.failed else (None, str(rc))
    return in_child(go)
def defs(nb):
    import ast
    return [(node.name, structure.signature(node), ast.dump(node)) for _, tree in structure.trees(nb) for node in tree.body if isinstance(node, structure.DEFINITIONS)]
DEFS = {}
for _p, _nb in SHELF.items():
    for n, sig, d in defs(_nb): DEFS.setdefault((n, sig), {})[_p] = d
def shared(path):
    nb = read(path)
    for n, sig, d in defs(nb):
        had = DEFS.get((n, sig), {})
        others = [q for q, e in had.items() if q != path and e != d]
        if others and had.get(path) != d: return ("structure", f"{n} differs from that of {others[0].parent.name}/{others[0].stem}")
    own = [t for r in structure.RULES for t in r(nb, path)]; before = [t for r in structure.RULES for t in r(SHELF[path], path)]
    new = [t for t in own if t not in before and "outputs are not of this code" not in t]
    return ("structure", new[0][:120]) if new else (None, "")
def quick(nb):
    r = subprocess.run([sys.executable, "-m", "pytest", f"Chapter{CH}/{nb}.ipynb", "-n", "0", "-x", "-q", "-p", "no:cacheprovider"], cwd=T, capture_output=True, text=True)
    lines = [l for l in r.stdout.splitlines() if "Error" in l or l.startswith("FAILED")]
    return ("quick run", " | ".join(l.strip()[:110] for l in lines[:2])) if r.returncode else (None, "")
for nb, faults in F.items():
    path = T / f"Chapter{CH}/{nb}.ipynb"; text = path.read_text()
    if all(f"{nb}|{n}" in done for n, _, _ in faults): continue
    if "--control" in opts:
        t = time.time(); control = tests(nb); print(f"{nb}\tCONTROL\t{control}\t{time.time() - t:.0f} s", flush=True)
        if control[0] or control[1] not in ("0", "ExitCode.OK"): print("THE CONTROL FAILS", flush=True); continue
    for name, pairs, run in faults:
        if only and not any(o in name or o == nb for o in only): continue
        if f"{nb}|{name}" in done: continue
        if time.time() - BEGAN > int(os.environ.get("FAULT_SECONDS", "300")): print("TIME IS UP", flush=True); sys.exit()
        new, counts = plant(path, pairs)
        if min(counts) < 1 : print(f"{nb}\t{name}\tNOT FOUND {counts}", flush=True); continue
        path.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n"); t = time.time()
        by = tests(nb)
        if not by[0]: by = shared(path)
        if not by[0] and (run or "--run" in opts) and "--norun" not in opts: by = quick(nb)
        path.write_text(text)
        print(f"{nb}\t{name}\t{'caught' if by[0] else 'SURVIVED'}\t{by[0] or ''}\t{str(by[1])[:150]}\t{time.time() - t:.0f} s", flush=True)
        with DONE.open("a") as f: f.write(f"{nb}|{name}\n")
