"""fault.py NOTEBOOK: plants each fault of faults_NOTEBOOK.py on a copy, runs the notebook's tests until the first failure."""
import contextlib, io, json, os, pickle, signal, subprocess, sys, time, warnings
from pathlib import Path
nb = sys.argv[1]; W = Path("trees/D2-draft"); T = Path(f"scratch/D2/copy_{nb}")
subprocess.run(["rm", "-rf", str(T)]); T.mkdir()
subprocess.run(f"cd {W} && tar -c --exclude=.git . | tar -x -C {T}", shell=True, check=True)
c = T / "tests/conftest.py"; t = c.read_text()
if "derandomize=True)" in t: c.write_text(t.replace("derandomize=True)", "derandomize=True, phases=[__import__('hypothesis').Phase.explicit, __import__('hypothesis').Phase.generate])"))
os.chdir(T); sys.path.insert(0, str(T)); os.environ["MPLBACKEND"] = "agg"; warnings.simplefilter("ignore")
import numpy, pandas, matplotlib.pyplot, PIL.Image, torch, torchvision, torchvision.transforms.v2, hypothesis, pytest, IPython, nbformat, datasets, torchmetrics, skimage.data, scipy.ndimage, sklearn.tree
torch.set_num_threads(1)
space = {}; exec(Path(f"scratch/D2/faults_{nb}.py").read_text(), space)
path = T / f"Chapter11/{nb}.ipynb"; good = path.read_text()
class Watch:
    def __init__(self): self.failed = []
    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed: self.failed.append(report.nodeid.split("::", 1)[-1])
    def pytest_collectreport(self, report):
        if report.failed and not self.failed: self.failed.append("collection")
def child():
    r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.alarm(60)
        watch = Watch()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            rc = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", f"tests/chapter11/test_{nb.lower()}.py"], plugins=[watch])
        os.write(w, pickle.dumps((watch.failed, str(rc)))); os._exit(0)
    os.close(w); d = b""
    while True:
        x = os.read(r, 65536)
        if not x: break
        d += x
    os.waitpid(pid, 0); return pickle.loads(d) if d else (["timeout"], "")
only = sys.argv[2:]
for name, old, new in space["FAULTS"]:
    if only and not any(o in name for o in only): continue
    raw = json.loads(good); hits = 0
    for cell in raw["cells"]:
        if cell["cell_type"] == "code":
            s = "".join(cell["source"])
            if old in s: hits += s.count(old); cell["source"] = s.replace(old, new)
    if hits != 1: print(f"{name}: {hits} HITS"); continue
    path.write_text(json.dumps(raw)); t0 = time.time(); failed, rc = child()
    print(f"{name}: {'caught by ' + failed[0] if failed else 'SURVIVED ' + rc} ({time.time() - t0:.0f} s)", flush=True)
path.write_text(good)
