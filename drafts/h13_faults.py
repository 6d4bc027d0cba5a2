"""faults.py NAME [only-substring...]: plants each fault in a copy; runs the notebook's tests; says what caught it. MISSED ones want the quick run."""
import contextlib, io, json, os, shutil, sys, time
from pathlib import Path
src, name = Path("."), sys.argv[1]
exec(open("scratch/h13/faultlist.py").read())
chapter, test, faults = F[name]
dst = Path(f"/tmp/h13_{name}")
shutil.rmtree(dst, ignore_errors=True)
shutil.copytree(src, dst, ignore=shutil.ignore_patterns(".git", "executed", "__pycache__", ".pytest_cache"), symlinks=True)
os.chdir(dst); sys.path.insert(0, str(dst)); os.environ["OMP_NUM_THREADS"] = "1"
import torch, torchvision, hypothesis, pytest, torchmetrics.detection, nbformat, scipy.stats, matplotlib.pyplot, pandas
torch.set_num_threads(1)
path = dst / f"{chapter}/{name}.ipynb"; good = path.read_text()
tests = [f"tests/{chapter.lower()}/test_{test}.py", "tests/chapter08/test_same_photos.py"]
if chapter == "Chapter07": tests.append("tests/chapter07/test_splits.py")
only = sys.argv[2:]
for title, *pairs in faults:
    if only and not any(o in title for o in only): continue
    d = json.loads(good); hits = []
    for old, new in zip(pairs[::2], pairs[1::2]):
        hit = 0
        for c in d["cells"]:
            if c["cell_type"] == "code":
                t = "".join(c["source"])
                if old in t: hit += t.count(old); t = t.replace(old, new)
                c["source"] = t; c["outputs"] = []
        hits.append(hit)
    if not all(hits): print(name, "|", title, "| NOT PLANTED", hits, flush=True); continue
    path.write_text(json.dumps(d, ensure_ascii=False)); t0 = time.time()
    pid = os.fork()
    if not pid:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            rc = pytest.main(["-n", "0", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests])
        line = [x for x in out.getvalue().splitlines() if x.startswith(("FAILED", "ERROR"))]
        print(name, "|", title, "|", "caught" if rc else "MISSED", "|", (line or [out.getvalue()[-160:].replace("\n", " ")])[0][:150], f"| {time.time()-t0:.0f} s", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    if "-q" in os.environ.get("QUICK", ""): pass
shutil.rmtree(dst, ignore_errors=True)
