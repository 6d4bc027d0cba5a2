"""faults.py COPY NOTEBOOK TESTFILE FAULTS.json : plant each on a copy, run the notebook's tests by a fork."""
import json, os, sys, io, contextlib, time
copy, nb, test, faults = sys.argv[1:5]
os.chdir(copy); sys.path.insert(0, copy)
import torch, torchmetrics, torchvision, scipy.stats, scipy.linalg, pandas, matplotlib.pyplot, pytest, nbformat, pyarrow.parquet  # noqa
import torchmetrics.image.fid, torchmetrics.image.kid
torch.set_num_threads(1)
raw = open(nb, encoding="utf8").read(); N = json.loads(raw)
for old, new in json.load(open(faults)):
    M = json.loads(raw); hits = 0
    for c in M["cells"]:
        if c["cell_type"] == "code":
            src = "".join(c["source"])
            if old in src:
                hits += src.count(old); c["source"] = src.replace(old, new).splitlines(True)
    if hits == 0: print("NOT FOUND", old, flush=True); continue
    open(nb, "w", encoding="utf8").write(json.dumps(M, indent=1, ensure_ascii=False))
    t = time.time(); r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        os.dup2(w, 1); os.dup2(w, 2)
        rc = pytest.main(["-x", "-q", "-n", "0", "--no-header", "-p", "no:cacheprovider", "--tb=no", "-rfE", "--durations=0" if 0 else "-q", test] + (sys.argv[5:]))
        sys.stdout.flush(); os._exit(int(rc))
    os.close(w); out = os.fdopen(r).read(); _, st = os.waitpid(pid, 0)
    who = [l for l in out.splitlines() if l.startswith(("FAILED", "ERROR"))]
    print("caught " if os.waitstatus_to_exitcode(st) else "SURVIVED", f"x{hits} {time.time()-t:.1f}s", repr(old[:60]), "->", repr(new[:50]), "|", who[0][:150] if who else "", flush=True)
open(nb, "w", encoding="utf8").write(raw)
