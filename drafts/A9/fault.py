"""fault.py SHORT…: plants each fault in a copy of the worktree's Chapter09 and tests/chapter09, runs the test file with -k (cheap choice) first; then, if it survived, the quick notebook."""
import os, shutil, sys, time, json, io, contextlib, runpy
from pathlib import Path
SRC, DST = Path("trees/A9"), Path("scratch/A9/faulty")
shutil.rmtree(DST, ignore_errors=True)
shutil.copytree(SRC, DST, ignore=shutil.ignore_patterns(".git", "executed", "__pycache__"), symlinks=True)
os.chdir(DST); sys.path.insert(0, str(DST)); os.environ["OMP_NUM_THREADS"] = "1"
import torch, torchvision, hypothesis, pytest, torchmetrics.detection, torchmetrics.classification, nbformat, pycocotools.cocoeval, skimage.segmentation, skimage.feature, skimage.filters, scipy.ndimage, matplotlib.pyplot, pandas, sklearn.metrics, datasets
torch.set_num_threads(1)
from hypothesis import settings
from hypothesis import Phase
settings.register_profile("few", phases=[Phase.explicit, Phase.generate], deadline=None); settings.load_profile("few")
F = runpy.run_path("scratch/A9/faultlist.py")["F"]
for short in sys.argv[1:]:
    nb, test, faults = F[short]
    path = DST / f"Chapter09/{nb}.ipynb"; good = path.read_text()
    for name, old, new, k in faults:
        d = json.loads(good); hit = 0
        for c in d["cells"]:
            if c["cell_type"] == "code":
                t = "".join(c["source"]); hit += t.count(old); c["source"] = t.replace(old, new); c["outputs"] = []
        if not hit: print(short, "|", name, "| NOT PLANTED", flush=True); continue
        path.write_text(json.dumps(d, ensure_ascii=False)); t0 = time.time()
        r, w = os.pipe(); pid = os.fork()
        if not pid:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", "--tb=line", f"tests/chapter09/{test}.py", "-k", f"({k}) and not stored"])
            lines = [l for l in out.getvalue().splitlines() if l.startswith(("FAILED", "ERROR"))]
            word = "caught" if code == 1 else f"SURVIVED({code})"
            os.write(w, (word + " | " + (" ; ".join(lines[-1:]) or out.getvalue()[-160:].replace("\n", " "))).encode()[:400]); os._exit(0)
        os.waitpid(pid, 0); os.close(w)
        print(short, "|", name, "|", os.read(r, 1000).decode(), f"| {time.time()-t0:.1f} s", flush=True)
    path.write_text(good)
