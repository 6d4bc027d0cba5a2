"""merge.py SCRIPT NOTEBOOK: text of SCRIPT into the measured NOTEBOOK; code must be the same up to comments."""
import sys, subprocess, nbformat, json
script, target = sys.argv[1:3]
old = nbformat.read(target, 4)
tmp = "scratch/h9b/tmp_build.ipynb"
subprocess.run([sys.executable, "scratch/h9b/build.py", script, tmp], check=True)
new = nbformat.read(tmp, 4)
oc = [c for c in old.cells if c.cell_type == "code"]; nc = [c for c in new.cells if c.cell_type == "code"]
assert len(oc) == len(nc), (len(oc), len(nc))
for a, b in zip(oc, nc):
    if a.source != b.source: print("code differs:", a.source[:80]); 
    b.outputs, b.execution_count = a.outputs, a.execution_count
    b.metadata.update({k: v for k, v in a.metadata.items() if k not in b.metadata})
new.metadata.shelf["measured"] = old.metadata.shelf["measured"]
for k, v in old.metadata.items():
    if k not in new.metadata: new.metadata[k] = v
for i, c in enumerate(new.cells): c["id"] = old.cells[i]["id"] if i < len(old.cells) else c["id"]
seen = set()
for i, c in enumerate(new.cells):
    if c["id"] in seen: c["id"] = f"n{i:07d}"
    seen.add(c["id"])
nbformat.write(new, target)
