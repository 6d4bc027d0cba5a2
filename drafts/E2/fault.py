"""fault.py NOTEBOOK TESTFILE FAULTS.py: plants each fault in a copy and runs the test file (forked, libraries loaded once)."""
import json, os, shutil, subprocess, sys, time, importlib.util
nb, test, faults = sys.argv[1:4]
tree = "scratch/E2/f"
subprocess.run(["rsync","-a","--delete","--exclude",".git","trees/E2/Chapter13","trees/E2/tests","trees/E2/pyproject.toml","trees/E2/conftest.py","trees/E2/README.md","trees/E2/requirements.txt",tree+"/"],check=True) if shutil.which("rsync") else [shutil.copytree(f"trees/E2/{d}",f"{tree}/{d}",dirs_exist_ok=True) for d in ("Chapter13","tests")]+[shutil.copy(f"trees/E2/{d}",tree) for d in ("pyproject.toml","conftest.py","README.md","requirements.txt")]
os.chdir(tree); sys.path.insert(0,tree)
import torch, torchvision, numpy, pandas, matplotlib.pyplot, skimage.metrics, skimage.color, scipy.stats, hypothesis, pytest, transformers, torchmetrics
torch.set_num_threads(1)
spec=importlib.util.spec_from_file_location("faults",faults); m=importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
original=open(nb).read()
for name,old,new in m.FAULTS:
    d=json.loads(original); hits=0
    for c in d["cells"]:
        if c["cell_type"]=="code":
            s="".join(c["source"])
            if old in s: hits+=s.count(old); c["source"]=s.replace(old,new).splitlines(True)
    if hits==0: print("NOT FOUND",name); continue
    json.dump(d,open(nb,"w")); t=time.time(); r,w=os.pipe(); pid=os.fork()
    if pid==0:
        os.dup2(os.open("scratch/E2/f/out",os.O_CREAT|os.O_WRONLY|os.O_TRUNC),1); os.dup2(1,2)
        os._exit(pytest.main(["-x","-q","-n","0","-p","no:cacheprovider",test]))
    rc=os.waitpid(pid,0)[1]>>8; out=open("scratch/E2/f/out").read()
    by=[l for l in out.splitlines() if l.startswith(("FAILED","ERROR"))]
    print(f"{'caught' if rc else 'MISSED'} ({hits}x, {time.time()-t:.0f}s) {name}: {by[0][:110] if by else ''}",flush=True)
open(nb,"w").write(original)
