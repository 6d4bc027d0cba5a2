import json, os, pathlib, shutil, subprocess, sys, time
import pytest
import torch, timm, hypothesis, pandas, gymnasium, matplotlib, torchvision, scipy  # noqa: once for all children
FAULTS = json.load(open("scratch/h14/faults.json"))
KEYS = os.environ["FAULT_KEYS"].split(",")
LOG = "scratch/h14/faults.log"

@pytest.mark.parametrize("key, n", [(k, n) for k in KEYS for n in range(len(FAULTS[k]["faults"]))])
def test_fault(key, n):
    spec = FAULTS[key]; name, old, new = spec["faults"][n]
    only = os.environ.get("FAULT_ONLY")
    if only and name not in only.split("|"): pytest.skip()
    copy = pathlib.Path(f"/tmp/h14_f_{key}")
    if not copy.exists():
        copy.mkdir()
        subprocess.run(f"git -C . archive HEAD {spec['notebook']} tests conftest.py pyproject.toml requirements.txt | tar x -C {copy}", shell=True, check=True)
        shutil.copy(copy / spec["notebook"], copy / "original.json")
    data = json.loads((copy / "original.json").read_text()); hits = 0
    for c in data["cells"]:
        if c["cell_type"] == "code":
            c["outputs"], c["execution_count"] = [], None
            src = "".join(c["source"])
            if old in src and not hits: c["source"] = src.replace(old, new, 1); hits = 1
    assert hits, "NOT FOUND"
    data["metadata"]["shelf"].pop("measured", None)
    (copy / spec["notebook"]).write_text(json.dumps(data, indent=1))
    target = spec["notebook"] if os.environ.get("FAULT_QUICK") else spec["tests"]
    t = time.time()
    if os.environ.get("FAULT_QUICK"):
        run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", target], cwd=copy, capture_output=True, text=True)
        rc, text = run.returncode, run.stdout
    else:
        out = copy / "out.txt"
        pid = os.fork()
        if not pid:
            try:
                fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC); os.dup2(fd, 1); os.dup2(fd, 2)
                os.chdir(copy); sys.path.insert(0, str(copy))
                for m in [m for m in sys.modules if m == "tests" or m.startswith("tests.")]: del sys.modules[m]
                rc = pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--tb=line", "-c", str(copy / "pyproject.toml"), "--rootdir", str(copy), str(copy / target)])
                os._exit(int(rc))
            finally: os._exit(99)
        rc = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]); text = out.read_text()
    lines = [l for l in text.splitlines() if l.startswith("FAILED") or "Error" in l]
    with open(LOG, "a") as f: f.write(f"{key} | {name} | {'CAUGHT' if rc == 1 else 'NOT CAUGHT' if rc == 0 else 'RC %s' % rc} | {target.split('/')[-1]} | {(lines[-1] if lines else text[-150:] if rc else '')[:170]} | {time.time() - t:.0f} s\n")
