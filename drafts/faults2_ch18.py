"""faults2.py NOTEBOOK [NAMES]: each fault on a copy, its test file in this one process (imports are done once)."""
import io, contextlib, importlib, os, sys, time, shutil, subprocess
from pathlib import Path
src = open("drafts/faults.py").read().replace("\nmain()\n", "\n")
nb = sys.argv[1]; exec(src)
shutil.rmtree(T, ignore_errors=True); shutil.copytree(W, T, ignore=shutil.ignore_patterns(".git", "runs", "executed"))
os.chdir(T); sys.path.insert(0, str(T))
import pytest
class Watch:
    def __init__(self): self.failed = []
    def pytest_runtest_logreport(self, report):
        if report.failed: self.failed.append((report.nodeid.split("::")[-1], str(report.longrepr).splitlines()))
for name, (old, new) in F[nb].items():
    if sys.argv[2:] and name not in sys.argv[2:]: continue
    n = plant(nb, old, new); began = time.time(); w = Watch()
    for m in [m for m in sys.modules if m == "conftest" or m.startswith("tests")]: del sys.modules[m]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        rc = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", f"tests/chapter18/test_{nb.lower()}.py"], plugins=[w]) if n else "NOT FOUND"
    why = [l for l in w.failed[0][1] if l.startswith("E ")][:1] if w.failed else ""
    print(f"{name}: {'caught by ' + w.failed[0][0] if w.failed else 'SURVIVED ' + str(rc)} {time.time()-began:.0f} s {str(why)[:110]}", flush=True)
