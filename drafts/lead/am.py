import sys, re, json, glob; sys.path.insert(0, "scratch/lead2")
from nbp import american
keep = re.compile(r"(```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|\$\$.*?\$\$|\$[^$\n]*\$)", re.S)
total = 0
for p in sorted(glob.glob("Chapter0[134]/*.ipynb")):
    raw = open(p, encoding="utf8").read(); nb = json.loads(raw); n = 0
    for c in nb["cells"]:
        if c["cell_type"] != "markdown": continue
        s = "".join(c["source"]); parts = keep.split(s)
        t = "".join(q if i % 2 else american(q) for i, q in enumerate(parts))
        if t != s:
            n += sum(a != b for a, b in zip(s.split(), t.split())); c["source"] = t.splitlines(True)
            bad = [l for l in t.splitlines() if len(l) > 120 and not l.startswith(("|", "[!"))]
    if n:
        total += n; open(p, "w", encoding="utf8").write(json.dumps(nb, indent=1, ensure_ascii=False) + ("\n" if raw.endswith("\n") else "")); print(n, p)
print(total)
